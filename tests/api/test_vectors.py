"""Vectors equal the reference library's."""

import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from tests.support.tiny import as_saved_by_old_versions, text_pipeline
from tests.support.vectors import TEXTS, ask, assert_same, pictures, png


@pytest.fixture(scope="module")
def vectors(server: str) -> dict[str, list[list[float]]]:
    return ask(server)


def test_image_vectors_equal_the_reference(tiny_models: Path, vectors: dict[str, list[list[float]]]) -> None:
    reference = SentenceTransformer(str(tiny_models / "clip"), device="cpu")
    assert_same(vectors["imageVectors"], reference.encode(pictures(), batch_size=1))


def test_text_vectors_equal_the_reference(tiny_models: Path, vectors: dict[str, list[list[float]]]) -> None:
    reference = SentenceTransformer(str(tiny_models / "text"), device="cpu")
    assert_same(vectors["textVectors"], reference.encode(TEXTS, batch_size=1))


@pytest.mark.served_once
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


@pytest.mark.served_once
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
