"""What the fast precisions cost and gain, against float32.

    python -m benchmarks.precision [--models DIR] [--output benchmarks/precision.json]
    python -m benchmarks.precision --cuda --precisions float16

For each precision that this machine takes, or those named, and for FAST_IMAGES in float32: pictures and texts per
second of the engine alone, memory, worst, median and mean cosine to the float32 vectors over 300 pictures and 300
texts of many kinds, the same with the demo model, and that model's figure (a held-out picture found among 50 by its
caption).
"""

import argparse
import base64
import dataclasses
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from app.cgroup import usable_cpus
from app.models.load import load_model
from app.processors.padding import collate
from app.processors.picture import PictureProcessor
from app.settings import load_settings
from app.towers import Inputs, LoadedModel, Tower
from benchmarks.fed import rate
from benchmarks.load import WORDS
from benchmarks.servers import memory
from demo.world import held_out, random_scene, random_size, top_1_accuracy

SECONDS = 4.0
PRECISIONS = ("float32", "bfloat16", "float16", "int8")
FAST_IMAGES = "fast images"
COLUMNS: dict[str, dict[str, str]] = {
    **{precision: {"PRECISION": precision} for precision in PRECISIONS},
    FAST_IMAGES: {"PRECISION": "float32", "FAST_IMAGES": "1"},
}


def pictures(count: int = 300) -> list[Image.Image]:
    """Drawn scenes, smooth and fine noise, at many sizes."""
    rng = random.Random(3)
    made: list[Image.Image] = []
    for number in range(count):
        size = random_size(rng)
        if number % 3 == 0:
            made.append(random_scene(rng).draw(rng, size))
            continue
        coarse = (rng.randint(2, 12), rng.randint(2, 12)) if number % 3 == 1 else size
        noise = Image.frombytes("RGB", coarse, rng.randbytes(coarse[0] * coarse[1] * 3))
        made.append(noise.resize(size, Image.Resampling.BICUBIC))
    return made


def write_photos(folder: Path, count: int = 300) -> None:
    """The pictures as JPEGs, every second one at several times its size, as cameras give them."""
    for number, image in enumerate(pictures(count)):
        if number % 2:
            scale = 1000 / min(image.size) * (1 + number % 3)
            size = round(image.width * scale), round(image.height * scale)
            image = image.resize(size, Image.Resampling.BICUBIC)
        image.save(folder / f"{number:04}.jpg", quality=90)


def texts(count: int = 300) -> list[str]:
    rng = random.Random(4)
    return [" ".join(rng.choices(WORDS, k=1 + number % 60)) for number in range(count)]


def prepared(items: list[Any], prepare: Callable[[Any], Inputs], size: int) -> Iterator[list[Inputs]]:
    ready = [prepare(item) for item in items]
    while True:
        for start in range(0, len(ready) - size + 1, size):
            yield ready[start : start + size]


def embed_all(tower: Tower, items: list[Any], size: int = 8) -> np.ndarray:
    with ThreadPoolExecutor(usable_cpus()) as pool:
        inputs = list(pool.map(tower.processor, items))
    batches = (collate(inputs[start : start + size], tower.padding) for start in range(0, len(items), size))
    return np.concatenate([tower.session.start(batch)() for batch in batches])


def retrieval(model: LoadedModel) -> float:
    """Of held-out pictures, how many are found by their caption among 50."""
    scores = []
    for group in held_out():
        images, captions = zip(*group, strict=True)
        files = [_png(image) for image in images]
        scores.append(top_1_accuracy(embed_all(model.image, files), embed_all(model.text, list(captions))))
    return float(np.mean(scores))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue())


def measure(vectors_path: Path, with_retrieval: bool) -> dict[str, Any]:
    settings = load_settings()
    model = load_model(settings)
    drawn = dict(zip(map(str, range(64)), pictures(64), strict=True))
    sizes = {"image": 4, "text": 16}
    if settings.enable_cuda:  # where batches are as large as pays off
        sizes = {name: min(64, getattr(model, name).limits.items) for name in sizes}
    speed = prepared(list(drawn), lambda key: model.image.processor(drawn[key]), sizes["image"])
    images_per_second = 0.0 if with_retrieval else rate(model.image, speed, SECONDS)
    files = PictureProcessor(model.image.processor, max_pixels=10**8, seconds=60, fast=settings.fast_images)
    model = dataclasses.replace(model, image=dataclasses.replace(model.image, processor=files))
    files_of_photos = [base64.b64encode(path.read_bytes()) for path in sorted(vectors_path.parent.glob("*.jpg"))]
    np.savez(vectors_path, image=embed_all(model.image, files_of_photos), text=embed_all(model.text, texts()))
    if with_retrieval:
        return {"demo_top_1": retrieval(model)}
    return {
        "images_per_second": images_per_second,
        "texts_per_second": rate(model.text, prepared(texts(64), model.text.processor, sizes["text"]), SECONDS),
        **memory(os.getpid()),
    }


def in_process(column: str, models: Path, vectors: Path, with_retrieval: bool) -> dict[str, Any] | None:
    """The figures of one column; None where this machine does not compute in it."""
    environment = {**os.environ, "MODELS_DIR": str(models), **COLUMNS[column]}
    command = [sys.executable, "-m", "benchmarks.precision", "--measure", str(vectors)]
    command += ["--retrieval"] if with_retrieval else []
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        if "ConfigurationError: PRECISION" in result.stderr:
            return None
        raise RuntimeError(result.stderr)
    figures: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return figures


def cosines(vectors: Path, exact: Path, name: str) -> dict[str, float]:
    """The worst, the median and the mean of each kind; their names begin with `name`."""
    got, want = np.load(vectors), np.load(exact)
    figures: dict[str, float] = {}
    for kind in ("image", "text"):
        a, b = got[kind], want[kind]
        ranked = np.sort((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))
        for which, value in (("worst", ranked[0]), ("median", np.median(ranked)), ("mean", ranked.mean())):
            figures[f"{name}{kind}_{which}_cosine"] = float(value)
    return figures


def compare(models: Path, demo: Path, columns: Iterable[str] = COLUMNS) -> dict[str, dict[str, Any]]:
    """The figures of each column; float32 comes first, with which the others are compared."""
    report: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder))
        demo = shutil.copytree(demo, Path(folder) / "demo")  # where it is compiled in every precision
        for column in columns:
            print(f"what {column} costs", file=sys.stderr, flush=True)
            path, of_demo = (Path(folder) / f"{column}{which}.npz" for which in ("", "-demo"))
            figures = in_process(column, models, path, False)
            if figures is None:
                print(f"{column}: this machine does not compute in it")
                continue
            figures |= cosines(path, Path(folder) / "float32.npz", "")
            figures |= in_process(column, demo, of_demo, True) or {}
            figures |= cosines(of_demo, Path(folder) / "float32-demo.npz", "demo_")
            report[column] = figures
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("benchmarks/.cache/model"))
    parser.add_argument("--demo", type=Path, default=Path("demo/models"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/precision.json"))
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--retrieval", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--cuda", action="store_true", help="on a GPU (ENABLE_CUDA=1)")
    parser.add_argument("--precisions", nargs="*", choices=[*COLUMNS], help="beside float32; all unless told")
    options = parser.parse_args()
    if options.cuda:
        os.environ["ENABLE_CUDA"] = "1"
    if options.measure:
        print(json.dumps(measure(options.measure, options.retrieval)))
        return
    columns = dict.fromkeys(["float32", *options.precisions]) if options.precisions else COLUMNS
    report = compare(options.models, options.demo, columns)
    options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"{'':22}" + "".join(f"{precision:>12}" for precision in report))
    for figure in report["float32"]:
        print(f"{figure:22}" + "".join(f"{figures[figure]:12.5f}" for figures in report.values()))


if __name__ == "__main__":
    main()
