"""Mutated pictures of allowed and of other formats: a vector or a clear refusal, in bounded time and memory.

    python -m benchmarks.fuzz_pictures [--count 35000] [--seed 0]

Exit status 1 if anything else happened; what did it is written to the folder fuzz-failures.
"""

import argparse
import collections
import random
import resource
import sys
import time
from pathlib import Path

from app.errors import InvalidRequest
from app.processors.picture import PictureProcessor
from benchmarks.broken import mutate, samples
from tests.support.samples import as_base64, as_pixels

SECONDS = 3.0


def fuzz(count: int, seed: int = 0, only: set[str] | None = None) -> tuple[collections.Counter[str], list[bytes]]:
    """Outcomes counted, and the inputs that did something else than give pixels or be refused."""
    rng = random.Random(seed)
    known = {name: data for name, data in samples().items() if only is None or name in only}
    names = sorted(known)
    prepare = PictureProcessor(as_pixels, max_pixels=1_000_000, seconds=SECONDS)
    outcomes: collections.Counter[str] = collections.Counter()
    failures: list[bytes] = []
    for _ in range(count):
        data = mutate(rng, known[rng.choice(names)], known[rng.choice(names)])
        started = time.monotonic()
        try:
            prepare(as_base64(data))
            outcomes["pixels"] += 1
        except InvalidRequest as error:
            outcomes["too slow" if "of computing allowed" in str(error) else "refused"] += 1
        except Exception as error:
            outcomes[f"{type(error).__name__}: {error}"] += 1
            failures.append(data)
        if time.monotonic() - started > 30 + 4 * SECONDS:
            outcomes["hung"] += 1
            failures.append(data)
    prepare.close()
    return outcomes, failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=35_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    outcomes, failures = fuzz(options.count, options.seed)
    for who, what in (("here", resource.RUSAGE_SELF), ("apart", resource.RUSAGE_CHILDREN)):
        outcomes[f"MiB at most, {who}"] = resource.getrusage(what).ru_maxrss // 1024
    for outcome, number in sorted(outcomes.items()):
        print(f"{number:8} {outcome}")
    for number, data in enumerate(failures):
        Path("fuzz-failures").mkdir(exist_ok=True)
        Path(f"fuzz-failures/{number}").write_bytes(data)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
