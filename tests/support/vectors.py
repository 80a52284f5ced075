"""Texts and pictures to embed, and the comparison with a reference library."""

import base64
import functools
import io
import json
import random
from typing import Any

import httpx
import numpy as np
from PIL import Image

from app.processors.padding import collate
from app.towers import Tower, Vectors

SIZES = [(32, 32), (64, 48), (31, 200), (500, 333), (7, 9), (1, 1), (1200, 900)]
TEXTS = ["a", "", "a photo of a cat", "word " * 60, "word " * 500, "日本語のテキスト", "🙂" * 40]
JSON = {"Content-Type": "application/json"}


@functools.cache
def _drawn() -> tuple[Image.Image, ...]:
    rng = random.Random(0)
    noise = [Image.frombytes("RGB", (12, 9), rng.randbytes(12 * 9 * 3)) for _ in SIZES]
    return tuple(image.resize(size, Image.Resampling.BICUBIC) for image, size in zip(noise, SIZES, strict=True))


def pictures() -> list[Image.Image]:
    return list(_drawn())


def png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def embed(tower: Tower, items: list[Any]) -> Vectors:
    """Vectors of shape (items, width), float32, computed as one batch on this thread."""
    return tower.session.start(collate([tower.processor(item) for item in items], tower.padding))()


def assert_same(got: list[list[float]], want: np.ndarray) -> None:
    vectors = np.array(got, np.float32)
    assert vectors.shape == want.shape
    lengths = np.linalg.norm(vectors, axis=1), np.linalg.norm(want, axis=1)
    np.testing.assert_allclose(lengths[0], lengths[1], rtol=1e-4)
    assert ((vectors * want).sum(axis=1) / lengths[0] / lengths[1]).min() >= 0.99999


@functools.cache
def _request() -> bytes:
    return json.dumps({"texts": TEXTS, "images": [png(picture) for picture in pictures()]}).encode()


def ask(url: str) -> dict[str, list[list[float]]]:
    """The answer for TEXTS and pictures()."""
    response = httpx.post(f"{url}/vectorize", content=_request(), headers=JSON, timeout=60)
    assert response.status_code == 200, response.text
    vectors: dict[str, list[list[float]]] = response.json()
    return vectors
