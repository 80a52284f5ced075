"""Models with random weights, laid out as the usual checkpoints of transformers are published."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import (
    AutoImageProcessor,
    AutoModel,
    BertConfig,
    BertModel,
    MetaClip2Config,
    MetaClip2Model,
    PreTrainedTokenizerFast,
    VisionTextDualEncoderModel,
    ViTConfig,
    ViTModel,
)

from app.errors import ConfigurationError
from tests.support import tiny_families
from tests.support.repositories import bake_and_load, change_json, embed, ids_of
from tests.support.vectors import TEXTS, assert_same, pictures

SHOWN = pictures()[:3]


def metaclip_2(hub: Path) -> Path:
    """A tokenizer of the kind of XLM-R, and token 2 as the end of a text."""
    xlm = tiny_families.xlm_roberta(hub.parent / "xlm")
    text = {"vocab_size": len(tiny_families.XLM_PIECES), "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    made = tiny_families.openai_clip(hub, MetaClip2Model, MetaClip2Config, text)
    for path in xlm.glob("tokenizer*"):
        shutil.copy(path, made)
    change_json(made / "tokenizer_config.json", tokenizer_class="XLMRobertaTokenizer", model_max_length=77)
    return made


def chinese_clip(hub: Path) -> Path:
    """Weights as .bin, a vocab.txt without tokenizer_config.json, and a preprocessor_config.json."""
    made = tiny_families.chinese_clip(hub)
    torch.save(load_file(made / "model.safetensors"), made / "pytorch_model.bin")
    images = json.loads((made / "processor_config.json").read_text())["image_processor"]
    (made / "preprocessor_config.json").write_text(json.dumps({**images, "feature_extractor_type": "x"}))
    for name in ("model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (made / name).unlink()
    return made


def long_clip(hub: Path) -> Path:
    return tiny_families.openai_clip(hub, text={"max_position_embeddings": 248})


LAYOUTS: dict[str, tuple[Callable[[Path], Path], int]] = {
    "MetaCLIP 2": (metaclip_2, 77),
    "Chinese-CLIP": (chinese_clip, 52),
    "Long-CLIP": (long_clip, 248),
}


def ids_of_files(hub: Path, length: int) -> Callable[[str], list[int]]:
    """What the files of a repository make of a text."""
    if (hub / "tokenizer.json").is_file():
        tokenizer = Tokenizer.from_file(str(hub / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(length)
        return lambda text: list(tokenizer.encode(text).ids)
    from transformers import BertTokenizer

    words = BertTokenizer(str(hub / "vocab.txt"))
    return lambda text: list(words(text, truncation=True, max_length=length)["input_ids"])


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_published_layout(name: str, tmp_path: Path) -> None:
    make, length = LAYOUTS[name]
    hub = make(tmp_path / "hub")
    names = {"CLIP_MODEL_NAME": str(hub), "TEXT_MODEL_NAME": str(hub), "CLIP_MODEL_TYPE": "openai"}
    got = bake_and_load(names, tmp_path / "models")
    model = AutoModel.from_pretrained(hub, dtype=torch.float32).eval()
    prepare = AutoImageProcessor.from_pretrained(hub, backend="pil")
    ids = ids_of_files(hub, length)

    def scaled(features: Any) -> np.ndarray:
        array: np.ndarray = torch.nn.functional.normalize(features.pooler_output, dim=-1).numpy()
        return array

    with torch.inference_mode():
        texts = [scaled(model.get_text_features(torch.tensor([ids(text)]))) for text in TEXTS]
        images = [scaled(model.get_image_features(**prepare([image], return_tensors="pt"))) for image in SHOWN]
    assert [ids_of(got.text, text) for text in TEXTS] == [ids(text) for text in TEXTS]
    assert_same(embed(got.text, TEXTS).tolist(), np.concatenate(texts))
    assert_same(embed(got.image, SHOWN).tolist(), np.concatenate(images))


def test_a_dual_encoder_is_refused_with_what_is_taken(tmp_path: Path) -> None:
    """Two towers of any kind in one repository, as clip-italian and koclip are."""
    hub = tmp_path / "hub"
    shape = tiny_families.SHAPE
    vision = ViTModel(ViTConfig(image_size=32, patch_size=8, **shape))
    text = BertModel(BertConfig(vocab_size=57, max_position_embeddings=64, **shape))
    VisionTextDualEncoderModel(vision_model=vision, text_model=text).save_pretrained(hub)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(_letters()))
    tokenizer.save_pretrained(hub)
    for more in ({"CLIP_MODEL_TYPE": "openai"}, {}):
        names = {"CLIP_MODEL_NAME": str(hub), "TEXT_MODEL_NAME": str(hub), **more}
        with pytest.raises(ConfigurationError, match=r"vision-text-dual-encoder.*choose"):
            bake_and_load(names, tmp_path / f"models{len(more)}")


def _letters() -> str:
    from tokenizers import models

    json_text: str = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]")).to_str()
    return json_text
