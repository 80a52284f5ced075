"""On a GPU: same vectors, same contract. Not run where there is none, and then one line says so."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer

from tests.support.contract import check_contract
from tests.support.vectors import TEXTS, ask, assert_same, pictures

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA tests were not run: no GPU here")


def test_vectors_and_contract_on_a_gpu(serve: Callable[..., str], tiny_models: Path) -> None:
    url = serve(tiny_models, ENABLE_CUDA="1", CUDA_CORE="cuda:0")
    got = ask(url)
    reference = SentenceTransformer(str(tiny_models / "clip"), device="cpu")
    assert_same(got["imageVectors"], reference.encode(pictures(), batch_size=1))
    assert_same(got["textVectors"], reference.encode(TEXTS, batch_size=1))
    check_contract(url)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_only_when_asked_for(serve: Callable[..., str], tiny_models: Path, precision: str) -> None:
    assert len(ask(serve(tiny_models, ENABLE_CUDA="1", PRECISION=precision))["textVectors"]) == len(TEXTS)
