"""Load from wrk (apt-get install wrk), which takes few of the cores that it shares with the server."""

import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory


def by_wrk(port: int, bodies: Iterable[bytes], connections: int, seconds: float) -> dict[str, float]:
    """`per_second`, `p99_ms` and `failed` of the answers, after two seconds that do not count."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "bodies"
        file.write_bytes(b"\n".join(bodies))
        script = Path(__file__).with_name("post.lua")
        for duration in (2, max(1, round(seconds))):
            command = ["wrk", "-t1", f"-c{connections}", f"-d{duration}s", "--timeout", "60s", "-s", str(script)]
            output = subprocess.run(
                [*command, f"http://127.0.0.1:{port}/"],
                env={**os.environ, "BODIES": str(file)},
                stdout=subprocess.PIPE,
                check=True,
            ).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result
