"""The families that need libraries of their own, OpenCLIP and ModernVBERT, and the others beside torchvision."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import run
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from colpali_engine.models import BiModernVBert, BiModernVBertProcessor

from tests.support import tiny_families
from tests.support.baking import download
from tests.support.compiled import without
from tests.support.families import Case, as_hub_cache, assert_like_reference
from tests.support.hub import serve_hub
from tests.support.precisions import PRECISIONS, assert_precision
from tests.support.server import ROOT
from tests.support.transformers_families import CASES as TRANSFORMERS_CASES
from tests.support.vectors import ask, assert_same, pictures
from tests.support.warm_python import warm_python

Serve = Callable[..., str]
TEXT_TOWER = "someone/xlm-roberta-tiny"


def open_clip_reference(hub: dict[str, Path]) -> tuple[Any, Any]:
    folder = next(iter(hub.values()))
    place = folder.parent / f"{folder.name}-reference"
    if not place.exists():
        shutil.copytree(folder, place)
        if TEXT_TOWER in hub:
            shutil.copytree(hub[TEXT_TOWER], place, dirs_exist_ok=True)
            description = json.loads((place / "open_clip_config.json").read_text())
            description["model_cfg"]["text_cfg"]["hf_model_name"] = str(place)
            (place / "open_clip_config.json").write_text(json.dumps(description))
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{place}")
    model.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{place}")

    def texts(items: list[str]) -> np.ndarray:
        array: np.ndarray = model.encode_text(tokenizer(items), normalize=True).numpy()
        return array

    def images(items: list[Any]) -> np.ndarray:
        array: np.ndarray = model.encode_image(torch.stack([preprocess(i) for i in items]), normalize=True).numpy()
        return array

    return texts, images


def old_open_clip(hub: dict[str, Path], models: Path) -> None:
    name, source = next(iter(hub.items()))
    folder = models / "openclip"
    shutil.copytree(source, models / "work")
    as_hub_cache(models / "work", folder, name)
    shutil.rmtree(models / "work")
    description = json.loads((source / "open_clip_config.json").read_text())
    config = {"model_name": "tiny", "pretrained": "v1", "model_config": description["model_cfg"]}
    (folder / "config.json").write_text(json.dumps({**config, "cache_dir": "./models/openclip"}))


def make_open_clip_with_text_tower(root: Path) -> dict[str, Path]:
    text = tiny_families.xlm_roberta(root / "text")
    config = tiny_families.open_clip_with_xlm_roberta(TEXT_TOWER)
    return {"someone/open-clip-xlm": tiny_families.open_clip(root / "hub", config, text), TEXT_TOWER: text}


def old_open_clip_with_text_tower(hub: dict[str, Path], models: Path) -> None:
    """The old tool left the text tower's files in the hub's own cache, which HF_HOME names."""
    old_open_clip({name: folder for name, folder in hub.items() if name != TEXT_TOWER}, models)
    as_hub_cache(hub[TEXT_TOWER], models / "home" / "hub", TEXT_TOWER)


def modern_vbert_reference(hub: dict[str, Path]) -> tuple[Any, Any]:
    folder = next(iter(hub.values()))
    model = BiModernVBert.from_pretrained(folder, dtype=torch.float32).eval()
    processor = BiModernVBertProcessor.from_pretrained(folder, backend="pil")

    def texts(items: list[str]) -> np.ndarray:
        features = processor(text=items, return_tensors="pt", truncation=True, max_length=512)
        array: np.ndarray = model(**features).numpy()
        return array

    def images(items: list[Any]) -> np.ndarray:
        array: np.ndarray = model(**processor.process_images(items)).numpy()
        return array

    return texts, images


def old_modern_vbert(hub: dict[str, Path], models: Path) -> None:
    name, source = next(iter(hub.items()))
    as_hub_cache(source, models / "colpali_engine_model", name)
    as_hub_cache(source, models / "colpali_engine_processor", name)
    config = json.loads((source / "config.json").read_text())
    (models / "colpali_engine_model" / "config.json").write_text(
        json.dumps({"model_name": name, "model_config": config})
    )
    (models / "model_name").write_text(name)


CASES = {
    "open_clip": Case(
        make=lambda root: {"someone/open-clip": tiny_families.open_clip(root / "hub")},
        names={"OPEN_CLIP_MODEL_NAME": "hf-hub:someone/open-clip"},
        lay_out_as_before=old_open_clip,
        reference=open_clip_reference,
    ),
    "open_clip_with_text_tower": Case(
        make=make_open_clip_with_text_tower,
        names={"OPEN_CLIP_MODEL_NAME": "hf-hub:someone/open-clip-xlm"},
        lay_out_as_before=old_open_clip_with_text_tower,
        reference=open_clip_reference,
    ),
    "modern_vbert": Case(
        make=lambda root: {"someone/modern-vbert": tiny_families.modern_vbert(root / "hub")},
        names={"COLPALI_ENGINE_MODEL_NAME": "someone/modern-vbert"},
        lay_out_as_before=old_modern_vbert,
        reference=modern_vbert_reference,
    ),
    "openai": TRANSFORMERS_CASES["openai"],
    "siglip": TRANSFORMERS_CASES["siglip"],
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def test_baked_and_served(
    case: Case, hub: dict[str, Path], baked: Path, serve: Serve, tmp_path: Path, offline: dict[str, str]
) -> None:
    hidden = without(tmp_path, "torch", "transformers", "open_clip", "colpali_engine")
    env = {**offline, "ENGINE": "openvino", "PYTHONPATH": hidden}
    assert_like_reference(case, hub, serve(baked, **env))


def test_served_on_torch_without_network(
    case: Case, hub: dict[str, Path], baked: Path, serve: Serve, offline: dict[str, str]
) -> None:
    assert_like_reference(case, hub, serve(baked, ENGINE="torch", **offline))


def test_what_the_old_download_py_baked(
    case: Case, hub: dict[str, Path], tmp_path: Path, serve: Serve, offline: dict[str, str]
) -> None:
    models = tmp_path / "models"
    case.lay_out_as_before(hub, models)
    env = {**offline, "HF_HOME": str(models / "home"), "ENGINE": "torch"}
    meta = assert_like_reference(case, hub, serve(models, **env))
    assert {"model_name", "model_config"} <= meta.keys() or meta["model_type"] in ("clip", "siglip")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_every_precision_on_every_engine(
    case: Case, baked: Path, reference: tuple[np.ndarray, np.ndarray], engine: str, precision: str
) -> None:
    if case in TRANSFORMERS_CASES.values():
        return  # tried without torchvision already
    assert_precision(baked, engine, precision, *reference)


def test_a_pair_of_name_and_weights(tmp_path: Path, serve: Serve) -> None:
    """A pair as open_clip registers them, here with a tiny model registered beside the library's own."""
    hub = {"someone/open-clip": tiny_families.open_clip(tmp_path / "hub")}
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "tiny.json").write_text(json.dumps(tiny_families.OPEN_CLIP_CONFIG))
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, open_clip, download\n"
        f"open_clip.add_model_config({str(configs)!r})\n"
        "open_clip.pretrained._PRETRAINED['tiny'] = {'v1': {'hf_hub': 'someone/open-clip/'}}\n"
        "sys.exit(download.main(sys.argv[1:]))\n"
    )
    models = tmp_path / "models"
    with serve_hub(hub) as running:
        environment = {
            "OPEN_CLIP_MODEL_NAME": "tiny",
            "OPEN_CLIP_PRETRAINED": "v1",
            "HF_ENDPOINT": running.url,
            "HF_HOME": str(tmp_path / "home"),
            "MODELS_DIR": str(models),
            "PYTHONPATH": str(ROOT),
        }
        result = run([warm_python(), str(program)], env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert sum(path.suffix == ".safetensors" for path in models.rglob("*")) == 1
    texts, images = open_clip_reference(hub)
    got = ask(serve(models, HF_ENDPOINT="http://127.0.0.1:9"))
    with torch.inference_mode():
        assert_same(got["imageVectors"], np.concatenate([images([picture]) for picture in pictures()]))
        assert_same(got["textVectors"][:2], np.concatenate([texts([text]) for text in ("a", "")]))


@pytest.mark.parametrize(
    "names, says",
    [
        ({"OPEN_CLIP_MODEL_NAME": "ViT-B-32", "OPEN_CLIP_PRETRAINED": "laion3b"}, "laion2b_s34b_b79k"),
        ({"OPEN_CLIP_MODEL_NAME": "ViT-B-32"}, "laion2b_s34b_b79k"),
        ({"OPEN_CLIP_MODEL_NAME": "ViT-B-33", "OPEN_CLIP_PRETRAINED": "openai"}, "ViT-B-32"),
    ],
)
def test_a_pair_that_does_not_exist(tmp_path: Path, names: dict[str, str], says: str) -> None:
    result = download("http://127.0.0.1:9", tmp_path / "models", **names)
    assert result.returncode == 1
    assert says in result.stderr and "Traceback" not in result.stderr


def test_only_open_clips_own_weights_are_taken(tmp_path: Path) -> None:
    """As in the usual repositories, the same weights lie side by side for several libraries."""
    repository = tiny_families.open_clip(tmp_path / "hub")
    for name in ("model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin"):
        (repository / name).write_bytes(b"of another library")
    with serve_hub({"someone/open-clip": repository}) as hub:
        names = {"OPEN_CLIP_MODEL_NAME": "hf-hub:someone/open-clip"}
        result = download(hub.url, tmp_path / "models", "--no-compile", **names)
        assert result.returncode == 0, result.stderr
        assert sorted(set(hub.downloads)) == ["open_clip_config.json", "open_clip_model.safetensors"]
