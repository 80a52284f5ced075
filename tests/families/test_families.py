"""The families that need transformers only: OpenAI CLIP, MetaCLIP 2, SigLIP, SigLIP 2 and NaFlex."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from tests.support import tiny_families
from tests.support.compiled import without
from tests.support.families import Case, assert_like_reference
from tests.support.precisions import PRECISIONS, assert_precision
from tests.support.server import free_port, start_server
from tests.support.transformers_families import CASES, transformers_reference
from tests.support.vectors import TEXTS, ask, png

Serve = Callable[..., str]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def compiled_server(case: Case, baked: Path, serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Baked, then served without the libraries that it was baked with."""
    libraries = without(tmp_path_factory.mktemp("without"), "torch", "transformers", "sentencepiece")
    return serve(baked, ENGINE="openvino", PYTHONPATH=libraries)


def test_baked_and_served_without_torch(case: Case, hub: dict[str, Path], compiled_server: str) -> None:
    assert_like_reference(case, hub, compiled_server)


def test_baked_and_served_on_torch_without_network(
    case: Case, hub: dict[str, Path], baked: Path, serve: Serve, offline: dict[str, str]
) -> None:
    assert_like_reference(case, hub, serve(baked, ENGINE="torch", **offline))


def test_what_the_old_download_py_baked(
    case: Case, hub: dict[str, Path], tmp_path: Path, serve: Serve, offline: dict[str, str]
) -> None:
    """On torch: OpenVINO computes the same module, and a first start that compiles is tried in tests/models."""
    models = tmp_path / "models"
    case.lay_out_as_before(hub, models)
    meta = assert_like_reference(case, hub, serve(models, ENGINE="torch", **offline))
    assert meta == json.loads((next(iter(hub.values())) / "config.json").read_text())


def test_nothing_is_stored_twice(baked: Path) -> None:
    weights = [path for path in baked.rglob("*") if path.suffix == ".safetensors"]
    assert len(weights) == 1
    assert not (baked / ".downloading").exists() and not list(baked.rglob("models--*"))


def test_a_vector_does_not_depend_on_its_neighbours(compiled_server: str) -> None:
    rng = np.random.default_rng(3)
    images = [png(Image.fromarray(rng.integers(0, 256, (h, w, 3), np.uint8))) for h, w in ((40, 90), (300, 200))]
    together = ask(compiled_server)
    for number, text in enumerate(TEXTS):
        alone = httpx.post(f"{compiled_server}/vectorize", json={"texts": [text]}).json()["textVectors"][0]
        np.testing.assert_allclose(alone, together["textVectors"][number], rtol=1e-3, atol=1e-5)
    both = httpx.post(f"{compiled_server}/vectorize", json={"images": images}).json()["imageVectors"]
    for image, vector in zip(images, both, strict=True):
        alone = httpx.post(f"{compiled_server}/vectorize", json={"images": [image]}).json()["imageVectors"][0]
        np.testing.assert_allclose(alone, vector, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_every_precision_on_every_engine(
    case: Case, baked: Path, reference: tuple[np.ndarray, np.ndarray], engine: str, precision: str
) -> None:
    assert_precision(baked, engine, precision, *reference)


def test_a_model_that_is_no_clip(tmp_path: Path) -> None:
    models = tmp_path / "models"
    config = {"model_type": "distilbert", "vocab_size": 30, "dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 8}
    (models / "openai_clip").mkdir(parents=True)
    (models / "openai_clip_processor").mkdir()
    (models / "openai_clip" / "config.json").write_text(json.dumps(config))
    process = start_server(models, PORT=str(free_port()))
    _, log = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "openai_clip" in log and "weights" in log and "Traceback" not in log


@pytest.mark.parametrize(
    "folder, library, requirements",
    [
        ("openclip", "open_clip", "requirements/openclip.txt"),
        ("colpali_engine_model", "colpali_engine", "requirements/colpali.txt"),
    ],
)
def test_a_library_that_is_not_installed_is_named(
    tmp_path: Path, folder: str, library: str, requirements: str
) -> None:
    models = tmp_path / "models"
    for name in {folder, folder.replace("model", "processor")}:
        (models / name).mkdir(parents=True)
        for marker in ("config.json", "tokenizer_config.json"):
            (models / name / marker).write_text("{}")
        (models / name / "weights.bin").write_bytes(b"0" * 100)
    environment = {"ENGINE": "torch", "PORT": str(free_port()), "PYTHONPATH": without(tmp_path, library)}
    process = start_server(models, **environment)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"pip install -r {requirements}" in log and "Traceback" not in log


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_texts_of_siglip_as_the_old_container_took_them(tmp_path: Path, serve: Serve, engine: str) -> None:
    """It padded to the longest text of a request, so a text that came alone was not padded at all."""
    source = tiny_families.siglip(tmp_path / "hub")
    shutil.copytree(source, tmp_path / "models" / "siglip")
    url = serve(tmp_path / "models", ENGINE=engine, LEGACY_TEXTS="1", CACHE_DIR=str(tmp_path / "cache"))
    texts, _ = transformers_reference(source, False, truncation=True, max_length=64)
    some = ["a red cat", "a cat", "a dog", "a blue tree beside the red house", "cat " * 200]
    vectors = httpx.post(f"{url}/vectorize", json={"texts": some}, timeout=60).json()["textVectors"]
    with torch.inference_mode():
        np.testing.assert_allclose(vectors, np.concatenate([texts([text]) for text in some]), rtol=1e-3, atol=1e-5)
        padded, _ = transformers_reference(source, False, padding="max_length", truncation=True, max_length=64)
        assert not np.allclose(vectors[0], padded(["a red cat"])[0], rtol=1e-2, atol=1e-3)
