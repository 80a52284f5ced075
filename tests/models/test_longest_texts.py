"""XLM-RoBERTa and RoBERTa: 514 positions, of which 512 can be used, whatever the model says of itself."""

import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from tests.support.compiled import compiled
from tests.support.tiny_families import roberta_pipeline

LONGEST = "ab " * 169 + "ab"  # 512 tokens: 3 a word, and one at each end
TEXTS = [LONGEST, f"{LONGEST}c", f"{LONGEST} cd", f"{LONGEST} {'cd ' * 5000}", f"{LONGEST[:-1]}c", "ab", ""]


@pytest.fixture(scope="module", params=["XLMRoberta", "Roberta"])
def models(request: pytest.FixtureRequest, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    shutil.copytree(tiny_models / "clip", folder / "clip")
    roberta_pipeline(folder / "text", request.param)
    shutil.rmtree(folder / "text-hub")
    return folder


@pytest.fixture(scope="module")
def reference(models: Path) -> np.ndarray:
    model = SentenceTransformer(str(models / "text"), device="cpu")
    assert model.max_seq_length == 514, "it would be no test"
    model.max_seq_length = 512
    vectors: np.ndarray = model.encode(TEXTS, batch_size=1)
    return vectors


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_the_longest_text_is_embedded_and_what_is_beyond_it_cut(
    models: Path, reference: np.ndarray, engine: str, serve: Callable[..., str]
) -> None:
    answer = httpx.post(f"{serve(models, ENGINE=engine)}/vectorize", json={"texts": TEXTS}, timeout=60)
    assert answer.status_code == 200, answer.text
    vectors = np.array(answer.json()["textVectors"])
    np.testing.assert_allclose(vectors, reference, rtol=1e-3, atol=1e-5)
    for beyond in (1, 2, 3):
        np.testing.assert_allclose(vectors[beyond], vectors[0], rtol=1e-4, atol=1e-6)
    assert np.abs(vectors[4] - vectors[0]).max() > 1e-4, "the last token that can be used was not"
    assert engine != "openvino" or len(compiled(models / "compiled")) == 1
