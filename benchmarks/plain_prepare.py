"""What preparing costs where nothing serves: parse a body, decode its items, make what the model reads.

For pictures that is json, base64, Pillow's decoding, its bicubic resize to the model's size, and the crop. For texts
it is json and the model's tokenizer. Processes work side by side without a word to each other. No server with the
same libraries prepares more on the same cores, unless it does less.
"""

import base64
import io
import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image
from tokenizers import Tokenizer


@dataclass(frozen=True)
class Form:
    """What a model reads: pictures of `width` x `height` pixels, and the tokens of the `tokenizer`, a file."""

    width: int
    height: int
    tokenizer: Path


@dataclass(frozen=True)
class Rate:
    """Items a second of all processes together, and seconds of CPU an item."""

    per_second: float
    cpu_seconds: float


def plain_rate(form: Form, bodies: list[bytes], seconds: float, processes: int) -> Rate:
    """Prepare the items of the bodies, again and again, for `seconds`."""
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        for started in [pool.submit(time.sleep, 0.5) for _ in range(processes)]:
            started.result()
        work = [pool.submit(prepare, form, bodies, seconds) for _ in range(processes)]
        done = [each.result() for each in work]
    rate = sum(items / wall for items, wall, _ in done)
    return Rate(rate, sum(cpu for _, _, cpu in done) / sum(items for items, _, _ in done))


def prepare(form: Form, bodies: list[bytes], seconds: float) -> tuple[int, float, float]:
    """What one process does. Items, seconds that passed, and seconds of CPU."""
    tokenizer = Tokenizer.from_file(str(form.tokenizer))
    Image.init()
    items, begin, cpu = 0, time.perf_counter(), time.process_time()
    for body in cycle(bodies):
        request = json.loads(body)
        for picture in request.get("images", []):
            pixels(picture, form.width, form.height)
            items += 1
        for text in request.get("texts", []):
            np.array(tokenizer.encode(text).ids)
            items += 1
        if time.perf_counter() - begin >= seconds:
            break
    return items, time.perf_counter() - begin, time.process_time() - cpu


def pixels(picture: str, width: int, height: int) -> np.ndarray:
    """uint8 (height, width, 3): the middle of the picture, made as small as still covers the model's size."""
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    scale = max(width / image.width, height / image.height)
    size = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    image = image.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(image.crop((left, top, left + width, top + height)))
