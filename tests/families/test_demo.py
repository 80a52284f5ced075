"""The bundled demo model, through the running service."""

import base64
import functools
import io
import random
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from sentence_transformers import SentenceTransformer

from demo.world import Scene, held_out, top_1_accuracy
from tests.support.contract import check_contract
from tests.support.server import ROOT
from tests.support.vectors import TEXTS, ask, assert_same, pictures

DEMO = ROOT / "demo/models"


@pytest.fixture(scope="module", params=["openvino", "torch"])
def demo(request: pytest.FixtureRequest, serve: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> str:
    cache = tmp_path_factory.mktemp("cache")
    return serve(DEMO, ENGINE=request.param, CACHE_DIR=str(cache))


def png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def embed(url: str, texts: list[str], images: list[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
    payload = {"texts": texts, "images": [png(image) for image in images]}
    answer = httpx.post(f"{url}/vectorize", json=payload, timeout=60).json()
    return np.array(answer["textVectors"], np.float32), np.array(answer["imageVectors"], np.float32)


@functools.cache
def groups() -> list[list[tuple[Image.Image, str]]]:
    return held_out(groups=8)


def test_a_caption_finds_its_picture_among_fifty(demo: str) -> None:
    scores = []
    for group in groups():
        images, captions = zip(*group, strict=True)
        text_vectors, image_vectors = embed(demo, list(captions), list(images))
        scores.append(top_1_accuracy(image_vectors, text_vectors))
    assert np.mean(scores) >= 0.95


def test_a_picture_is_nearest_to_its_own_words(demo: str) -> None:
    image = Scene("circle", "red", "white", "large", 1, "centre").draw(random.Random(0), 224)
    texts = ["a red circle on white", "a blue square on black", "two green stars"]
    text_vectors, image_vectors = embed(demo, texts, [image])
    assert int((text_vectors @ image_vectors[0] / np.linalg.norm(text_vectors, axis=1)).argmax()) == 0


def test_vectors_equal_the_reference(demo: str) -> None:
    got = ask(demo)
    image = SentenceTransformer(str(DEMO / "clip"), device="cpu")
    text = SentenceTransformer(str(DEMO / "text"), device="cpu")
    assert_same(got["imageVectors"], image.encode(pictures(), batch_size=1))
    assert_same(got["textVectors"], text.encode(TEXTS, batch_size=1))


def test_contract(demo: str) -> None:
    check_contract(demo)


def test_the_answer_in_the_readme_is_the_real_one(demo: str) -> None:
    body = b'{"texts": ["foo bar"], "images":[]}'
    answer = httpx.post(f"{demo}/vectorize", content=body).json()
    assert answer["imageVectors"] == []
    shown = Path("README.md").read_text().split('{"textVectors":[[')[1].split(",…")[0]
    numbers = [float(number) for number in shown.split(",")]
    np.testing.assert_allclose(answer["textVectors"][0][: len(numbers)], numbers, atol=1e-4)


def test_the_repository_stays_small() -> None:
    files = [path for name in ("clip", "text") for path in (DEMO / name).rglob("*")]
    assert sum(path.stat().st_size for path in files) <= 5_000_000
