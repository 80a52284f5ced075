"""Photos of 108 and 200 megapixels, as phones take them: a vector where that is allowed, else the setting's name."""

import base64
import struct
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from app.serving.budget import MAX_PIXELS, max_pixels_for
from app.settings import Settings
from tests.serving.test_memory import peak_mb
from tests.support.samples import encoded, photo
from tests.support.server import process_of

SHOT = photo(1200, 900)


def request(data: bytes) -> dict[str, list[str]]:
    return {"images": [base64.b64encode(data).decode()]}


def vector(url: str, body: dict[str, list[str]]) -> np.ndarray:
    answer = httpx.post(f"{url}/vectorize", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    found = np.array(answer.json()["imageVectors"][0])
    return found / np.linalg.norm(found)


def test_a_photo_of_108_megapixels_and_one_of_200(serve: Callable[..., str]) -> None:
    url = serve(Path("demo/models"), measured=True)
    want = vector(url, request(encoded(SHOT, "JPEG")))
    large = encoded(SHOT.resize((12_000, 9_000), Image.Resampling.NEAREST), "JPEG")
    before = peak_mb(process_of(url).pid)
    assert vector(url, request(large)) @ want > 0.99
    assert peak_mb(process_of(url).pid) - before < 1.2 * 4 * 108

    data = bytearray(encoded(SHOT, "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 12_240, 16_320)
    answer = httpx.post(f"{url}/vectorize", json=request(bytes(data)), timeout=60)
    assert answer.status_code == 422
    assert "16320 x 12240 pixels" in answer.json()["error"] and "raise MAX_PIXELS" in answer.json()["error"]


@pytest.mark.parametrize("mib, pixels", [(40, 10 * 2**20), (400, 100 * 2**20), (10_000, MAX_PIXELS)])
def test_the_limit_follows_the_memory(mib: int, pixels: int) -> None:
    assert max_pixels_for(Settings(), mib * 2**20) == pixels
    assert max_pixels_for(Settings(max_pixels=5000), mib * 2**20) == 5000
