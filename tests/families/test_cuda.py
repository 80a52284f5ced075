"""On a GPU: same vectors, same contract. Not run where there is none, and then one line says so."""

from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from app.models.load import load_model
from app.processors.padding import collate
from app.settings import Settings
from app.towers import LoadedModel, memory_of
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


@pytest.fixture(scope="module")
def model(tiny_models: Path) -> LoadedModel:
    return load_model(Settings(models_dir=tiny_models, enable_cuda=True, max_batch=8))


@pytest.mark.parametrize("kind", ["text", "image"])
def test_batches_under_way_do_not_disturb_each_other(model: LoadedModel, kind: str) -> None:
    """Their arrays lie in memory that is used again."""
    tower = getattr(model, kind)
    inputs = [tower.processor(item) for item in (TEXTS if kind == "text" else pictures())]
    want = np.concatenate([tower.session.start(collate([each], tower.padding))() for each in inputs])
    running: deque[tuple[list[int], Callable[[], np.ndarray]]] = deque()
    for number in range(200):
        pair = [number % len(inputs), (number + 1) % len(inputs)]
        batch = collate([inputs[each] for each in pair], tower.padding, memory_of(tower.session))
        running.append((pair, tower.session.start(batch)))
        del batch
        if len(running) == 3:
            which, finish = running.popleft()
            assert_same(finish().tolist(), want[which])


def test_memory_of_a_batch_is_pinned_and_used_again(model: LoadedModel) -> None:
    addresses = set()
    for _ in range(5):
        array = memory_of(model.image.session)((8, 32, 32, 3), np.dtype(np.uint8))
        assert torch.from_numpy(array).is_pinned()
        addresses.add(array.ctypes.data)
        del array
    assert len(addresses) == 1


def test_to_start_a_batch_of_pictures_waits_for_nothing(model: LoadedModel) -> None:
    tower = model.image
    batch = collate([tower.processor(picture) for picture in pictures()], tower.padding, memory_of(tower.session))
    tower.session.start(batch)()
    torch.cuda.set_sync_debug_mode("error")
    try:
        finish = tower.session.start(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert finish().shape == (len(pictures()), model.width)
