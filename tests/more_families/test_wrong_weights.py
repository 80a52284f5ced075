"""OpenCLIP and ModernVBERT: weights that are not there are never random ones."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from app.errors import ConfigurationError
from app.families.registry import find_family
from tests.support import tiny_families
from tests.support.repositories import bake_and_load, embed, renamed, reshaped, with_weights, without

# How a model is made and named, and a tensor of a tower.
FAMILIES: dict[str, tuple[Callable[[Path], Path], str, str, str]] = {
    "open_clip": (tiny_families.open_clip, "OPEN_CLIP_MODEL_NAME", "hf-hub:", "text_projection"),
    "modern_vbert": (tiny_families.modern_vbert, "COLPALI_ENGINE_MODEL_NAME", "", "connector.modality_projection"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_that_are_lacking_or_renamed(name: str, tmp_path: Path) -> None:
    make, variable, prefix, tensor = FAMILIES[name]
    whole = make(tmp_path / "hub")

    def load(folder: Path, target: str) -> object:
        return bake_and_load({variable: f"{prefix}{folder}"}, tmp_path / target)

    with pytest.raises(ConfigurationError, match=f"weights in .*{tensor}.*choose a repository"):
        load(with_weights(whole, tmp_path / "lacking", without(tensor)), "1")
    with pytest.raises(ConfigurationError, match=tensor):
        load(with_weights(whole, tmp_path / "wrong", reshaped(tensor)), "2")
    load(whole, "3")
    baked = Path(shutil.copytree(tmp_path / "3", tmp_path / "baked"))  # before this was looked at
    (path,) = baked.rglob("*.safetensors")
    lacking = with_weights(path.parent, tmp_path / "of-bake", without(tensor))
    shutil.copytree(lacking, path.parent, dirs_exist_ok=True)
    with pytest.raises(ConfigurationError, match=tensor):
        find_family(baked).load(baked, False)

    with pytest.raises(ConfigurationError, match="renamed by a trainer"):
        load(with_weights(whole, tmp_path / "renamed", renamed("trainer.net.")), "4")


def test_the_text_part_is_whole_or_refused(tmp_path: Path) -> None:
    """A start asks the hub for nothing: what the text tower needs is there after baking, or baking ends."""
    text = tiny_families.xlm_roberta(tmp_path / "text")
    config = tiny_families.open_clip_with_xlm_roberta(str(text))
    hub = tiny_families.open_clip(tmp_path / "hub", config, text)
    (text / "tokenizer_config.json").unlink()
    names = {"OPEN_CLIP_MODEL_NAME": f"hf-hub:{hub}"}
    model = bake_and_load(names, tmp_path / "models")
    assert embed(model.text, ["a cat"]).shape == (1, 16)
    (text / "tokenizer.json").unlink()
    with pytest.raises(ConfigurationError, match=r"sentencepiece\.bpe\.model|tokenizer"):
        bake_and_load(names, tmp_path / "without")
