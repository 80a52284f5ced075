"""What may be baked as what, and code of a model's own."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from transformers import AutoProcessor, RobertaConfig, RobertaModel, SiglipModel

from app.engines.openvino import OpenVINO
from app.errors import ConfigurationError
from app.families.folders import content_files
from app.families.sentence_transformer_pair import usable_positions
from app.models.load import load_model
from app.models.store import read_manifest
from app.settings import Settings
from tests.support import tiny_families
from tests.support.baking import download
from tests.support.hub import serve_hub
from tests.support.tiny import clip_pair

CODE = """
from transformers import SiglipConfig, SiglipModel

class OwnConfig(SiglipConfig):
    model_type = "own_siglip"

class OwnModel(SiglipModel):
    config_class = OwnConfig
"""


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_families.siglip(tmp_path_factory.mktemp("siglip") / "hub")


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ({"CLIP_MODEL_NAME": "someone/siglip", "TEXT_MODEL_NAME": "someone/siglip"}, "SIGLIP_MODEL_NAME"),
        (
            {"CLIP_MODEL_NAME": "s/m", "TEXT_MODEL_NAME": "s/m", "CLIP_MODEL_TYPE": "openai"},
            "siglip model; bake it with SIGLIP_MODEL_NAME",
        ),
        ({"COLPALI_ENGINE_MODEL_NAME": "someone/siglip"}, "SIGLIP_MODEL_NAME"),
    ],
)
def test_a_model_of_another_family_is_refused_with_the_setting_to_use(
    siglip: Path, tmp_path: Path, names: dict[str, str], says: str
) -> None:
    with serve_hub({"someone/siglip": siglip, "s/m": siglip}) as hub:
        result = download(hub.url, tmp_path / "models", **names)
    if "pip install" in result.stderr:  # the family's own library comes first where it is missing
        says = "requirements/colpali.txt"
    assert result.returncode == 1 and says in result.stderr and "Traceback" not in result.stderr
    kept = list((tmp_path / "models" / ".downloading").rglob("*.safetensors"))
    assert kept or "pip install" in result.stderr  # a setting was wrong, not the download


def test_code_of_another_repository_is_kept_with_the_model(
    siglip: Path, tmp_path: Path, serve: Callable[..., str], offline: dict[str, str]
) -> None:
    own, code = tmp_path / "own", tmp_path / "code"
    shutil.copytree(siglip, own)
    config = json.loads((own / "config.json").read_text())
    references = {"AutoConfig": "someone/impl--own.OwnConfig", "AutoModel": "someone/impl--own.OwnModel"}
    (own / "config.json").write_text(json.dumps({**config, "model_type": "own_siglip", "auto_map": references}))
    code.mkdir()
    (code / "own.py").write_text(CODE)
    models = tmp_path / "models"
    with serve_hub({"someone/own": own, "someone/impl": code}) as hub:
        refused = download(hub.url, models, SIGLIP_MODEL_NAME="someone/own")
        assert refused.returncode == 1 and "TRUST_REMOTE_CODE=1" in refused.stderr
        baked = download(hub.url, models, "--no-compile", SIGLIP_MODEL_NAME="someone/own", TRUST_REMOTE_CODE="1")
        assert baked.returncode == 0, baked.stderr[-3000:]
    assert (models / "siglip" / "own.py").is_file()
    url = serve(models, ENGINE="torch", HF_HOME=str(tmp_path / "home"), **offline)
    vector = httpx.post(f"{url}/vectorize", json={"texts": ["a cat"]}).json()["textVectors"][0]
    processor = AutoProcessor.from_pretrained(siglip, backend="pil")
    inputs = processor(text=["a cat"], padding="max_length", max_length=64, return_tensors="pt")
    with torch.inference_mode():
        want = SiglipModel.from_pretrained(siglip).eval().get_text_features(**inputs).pooler_output[0]
    np.testing.assert_allclose(vector, want.numpy(), rtol=1e-3, atol=1e-5)


def test_links_inside_a_model_folder_are_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "model.safetensors").write_text("")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "0_CLIPModel").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "model" / ".DS_Store").write_text("")
    assert content_files(tmp_path / "model") == [tmp_path / "model" / "0_CLIPModel" / "model.safetensors"]


def test_a_precision_in_which_only_another_machine_computes_is_baked(tmp_path: Path) -> None:
    able = OpenVINO().precisions(Settings())
    precision = next((name for name in ("bfloat16", "float16", "int8") if name not in able), None)
    if precision is None:
        pytest.skip("this machine computes in every precision")
    pair, models = clip_pair(tmp_path / "pair"), tmp_path / "models"
    names = {"CLIP_MODEL_NAME": "someone/clip", "TEXT_MODEL_NAME": "someone/clip", "PRECISION": precision}
    with serve_hub({"someone/clip": pair / "clip"}) as hub:
        baked = download(hub.url, models, **names)
        for_a_gpu = download(hub.url, tmp_path / "gpu", "--no-compile", **{**names, "PRECISION": "float16"})
    assert baked.returncode == 0 and f"does not compute in {precision}" in baked.stderr, baked.stderr
    assert for_a_gpu.returncode == 0 and (tmp_path / "gpu" / "precision").read_text() == "float16", for_a_gpu.stderr
    assert [read_manifest(folder)["precision"] for folder in models.glob("compiled/[!.]*")] == [precision]
    with pytest.raises(ConfigurationError, match=f"PRECISION={precision}: .* takes float32"):
        load_model(Settings(models_dir=models))
    for name in ("clip", "text"):
        shutil.rmtree(models / name)
    alone = load_model(Settings(models_dir=models), served_elsewhere=True)  # as the build of an image tries it
    assert (alone.precision, alone.family) == (precision, "sentence-transformers")


def test_positions_by_the_models_own_rule() -> None:
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    model = RobertaModel(RobertaConfig(vocab_size=20, max_position_embeddings=34, pad_token_id=1, **shape)).eval()
    usable = usable_positions(model)
    assert usable == 32
    assert model(torch.full((1, usable), 5)).last_hidden_state.isfinite().all()
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, usable + 1), 5))
    assert usable_positions(torch.nn.Linear(2, 2)) is None
