"""A sentence-transformers pair in every precision on every engine; the other families are in tests/families."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from tests.support.precisions import PRECISIONS, assert_precision
from tests.support.tiny import text_pipeline
from tests.support.vectors import TEXTS, pictures


@pytest.fixture(scope="module")
def pair(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP for pictures, and a text model of transformer, pooling and dense layer."""
    models = tmp_path_factory.mktemp("pair")
    shutil.copytree(tiny_models / "clip", models / "clip")
    text_pipeline(models / "text")
    shutil.rmtree(models / "text-hub")
    return models


@pytest.fixture(scope="module")
def reference(pair: Path) -> tuple[np.ndarray, np.ndarray]:
    """The vectors of TEXTS and pictures() that sentence-transformers gives."""
    texts = SentenceTransformer(str(pair / "text"), device="cpu").encode(TEXTS, batch_size=1)
    return texts, SentenceTransformer(str(pair / "clip"), device="cpu").encode(pictures(), batch_size=1)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_every_precision_on_every_engine(
    pair: Path, reference: tuple[np.ndarray, np.ndarray], engine: str, precision: str
) -> None:
    assert_precision(pair, engine, precision, *reference)
