"""Vectors equal the reference library's."""

import base64
import io
import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from sentence_transformers import SentenceTransformer

from tests.tiny import as_saved_by_old_versions, text_pipeline

SIZES = [(32, 32), (64, 48), (31, 200), (500, 333), (7, 9), (1, 1), (1200, 900)]
TEXTS = ["a", "", "a photo of a cat", "word " * 60, "word " * 500, "日本語のテキスト", "🙂" * 40]


def pictures() -> list[Image.Image]:
    rng = random.Random(0)
    noise = [Image.frombytes("RGB", (12, 9), rng.randbytes(12 * 9 * 3)) for _ in SIZES]
    return [image.resize(size, Image.Resampling.BICUBIC) for image, size in zip(noise, SIZES, strict=True)]


def png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def assert_same(got: list[list[float]], want: np.ndarray) -> None:
    vectors = np.array(got, np.float32)
    assert vectors.shape == want.shape
    lengths = np.linalg.norm(vectors, axis=1), np.linalg.norm(want, axis=1)
    np.testing.assert_allclose(lengths[0], lengths[1], rtol=1e-4)
    assert ((vectors * want).sum(axis=1) / lengths[0] / lengths[1]).min() >= 0.99999


@pytest.fixture(scope="module")
def vectors(server: str) -> dict[str, list[list[float]]]:
    return ask(server)


def test_image_vectors_equal_the_reference(tiny_models: Path, vectors: dict[str, list[list[float]]]) -> None:
    reference = SentenceTransformer(str(tiny_models / "clip"), device="cpu")
    assert_same(vectors["imageVectors"], reference.encode(pictures(), batch_size=1))


def test_text_vectors_equal_the_reference(tiny_models: Path, vectors: dict[str, list[list[float]]]) -> None:
    reference = SentenceTransformer(str(tiny_models / "text"), device="cpu")
    assert_same(vectors["textVectors"], reference.encode(TEXTS, batch_size=1))


def ask(url: str) -> dict[str, list[list[float]]]:
    payload = {"texts": TEXTS, "images": [png(picture) for picture in pictures()]}
    response = httpx.post(f"{url}/vectorize", json=payload, timeout=60)
    assert response.status_code == 200, response.text
    vectors: dict[str, list[list[float]]] = response.json()
    return vectors


@pytest.mark.parametrize("module_folder", ["", "0_CLIPModel"])
def test_folders_of_old_versions(
    serve: Callable[..., str], tiny_models: Path, tmp_path: Path, module_folder: str
) -> None:
    for name in ("clip", "text"):
        as_saved_by_old_versions(tiny_models / name, tmp_path / name, module_folder)
    url = serve(tmp_path)
    got = ask(url)
    reference = SentenceTransformer(str(tiny_models / "clip"), device="cpu")
    assert_same(got["imageVectors"], reference.encode(pictures(), batch_size=1))
    assert_same(got["textVectors"], reference.encode(TEXTS, batch_size=1))
    assert httpx.get(f"{url}/meta").json()["text_model"]["projection_dim"] == 16


def test_an_ordinary_text_model_beside_a_clip(serve: Callable[..., str], tiny_models: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_models / "clip", tmp_path / "clip")
    text_pipeline(tmp_path / "text")
    got = ask(serve(tmp_path))
    images = SentenceTransformer(str(tmp_path / "clip"), device="cpu")
    texts = SentenceTransformer(str(tmp_path / "text"), device="cpu")
    assert_same(got["imageVectors"], images.encode(pictures(), batch_size=1))
    assert_same(got["textVectors"], texts.encode(TEXTS, batch_size=1))


def test_vectors_do_not_depend_on_what_else_is_asked(server: str) -> None:
    """32 clients at once, single items and mixed requests: each vector equals the one computed alone."""
    images = [png(picture) for picture in pictures()]
    texts = [f"{'word ' * (n * 7 % 60)}number {n}" for n in range(40)]
    alone = {item: ask_for(server, item, item in images) for item in (*texts, *images)}

    def client(seed: int) -> float:
        rng = random.Random(seed)
        worst = 1.0
        for _ in range(12):
            some = rng.sample(texts, rng.choice([0, 1, 1, 5, 30])), rng.sample(images, rng.choice([0, 1, 1, 4]))
            answer = httpx.post(f"{server}/vectorize", json={"texts": some[0], "images": some[1]}, timeout=60)
            assert answer.status_code == 200, answer.text
            got = answer.json()
            for item, vector in zip((*some[0], *some[1]), (*got["textVectors"], *got["imageVectors"]), strict=True):
                worst = min(worst, cosine(vector, alone[item]))
        return worst

    with ThreadPoolExecutor(32) as pool:
        assert min(pool.map(client, range(32))) >= 0.99999


def ask_for(url: str, item: str, is_image: bool) -> list[float]:
    payload = {"images": [item]} if is_image else {"texts": [item]}
    got = httpx.post(f"{url}/vectorize", json=payload, timeout=60).json()
    vector: list[float] = (got["imageVectors"] or got["textVectors"])[0]
    return vector


def cosine(a: list[float], b: list[float]) -> float:
    return float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))
