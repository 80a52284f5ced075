"""OpenCLIP and ModernVBERT: weights that are not there are never random ones."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from app.errors import ConfigurationError
from app.families.registry import find_family
from tests.support import tiny_families
from tests.support.repositories import Tensors, bake_and_load, embed, renamed, reshaped, with_weights, without
from tests.support.vectors import TEXTS, assert_same, pictures

# How a model is made and named, and a tensor of a tower.
FAMILIES: dict[str, tuple[Callable[[Path], Path], str, str, str]] = {
    "open_clip": (tiny_families.open_clip, "OPEN_CLIP_MODEL_NAME", "hf-hub:", "text_projection"),
    "modern_vbert": (tiny_families.modern_vbert, "COLPALI_ENGINE_MODEL_NAME", "", "connector.modality_projection"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_that_are_lacking_or_renamed(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make, variable, prefix, tensor = FAMILIES[name]
    whole = make(tmp_path / "hub")

    def load(folder: Path, target: str) -> object:
        return bake_and_load({variable: f"{prefix}{folder}"}, tmp_path / target)

    with pytest.raises(ConfigurationError, match=f"weights in .*{tensor}.*choose a repository"):
        load(with_weights(whole, tmp_path / "lacking", without(tensor)), "1")
    with pytest.raises(ConfigurationError, match=tensor):
        load(with_weights(whole, tmp_path / "wrong", reshaped(tensor)), "2")
    want = bake_and_load({variable: f"{prefix}{whole}"}, tmp_path / "3")
    baked = Path(shutil.copytree(tmp_path / "3", tmp_path / "baked"))  # before this was looked at
    (path,) = baked.rglob("*.safetensors")
    lacking = with_weights(path.parent, tmp_path / "of-bake", without(tensor))
    shutil.copytree(lacking, path.parent, dirs_exist_ok=True)
    with pytest.raises(ConfigurationError, match=tensor):
        find_family(baked).load(baked, False)

    def change(tensors: Tensors) -> Tensors:
        return {**renamed("trainer.net.")(tensors), "trainer.net.extra": torch.zeros(1)}

    changed = with_weights(whole, tmp_path / "renamed", change)
    if name == "open_clip":  # which takes away the prefix of torch's trainers itself
        with pytest.raises(ConfigurationError, match="renamed by a trainer"):
            load(changed, "4")
        return
    with caplog.at_level(logging.WARNING):
        got = bake_and_load({variable: f"{prefix}{changed}"}, tmp_path / "4")
    assert "'trainer.net.', which is left out" in caplog.text and "does not use: extra" in caplog.text
    assert_same(embed(got.text, TEXTS[:3]).tolist(), embed(want.text, TEXTS[:3]))
    assert_same(embed(got.image, pictures()[:2]).tolist(), embed(want.image, pictures()[:2]))


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
