"""Models with random weights, laid out as the usual checkpoints are published, give the vectors of their library."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, GemmaTokenizer

from tests.support import tiny_families
from tests.support.repositories import bake_and_load, embed
from tests.support.vectors import TEXTS, assert_same, pictures

SHOWN = pictures()[1:4]
TEXT = {"vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
PREPARED = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize_mode": "squash"}


def published(name: str, **text: Any) -> dict[str, Any]:
    """open_clip's own description of a model, with a text tower of two narrow layers."""
    config: dict[str, Any] = json.loads(json.dumps(open_clip.get_model_config(name)))
    config["text_cfg"].update({**TEXT, "vocab_size": config["text_cfg"]["vocab_size"], **text})
    return config


def layout(hub: Path, config: dict[str, Any], prepared: dict[str, Any], suffix: str = ".safetensors") -> Path:
    """A repository of open_clip: description and weights."""
    made = tiny_families.open_clip(hub, config)
    (made / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": prepared}))
    if suffix == ".bin":
        torch.save(load_file(made / "open_clip_model.safetensors"), made / "open_clip_pytorch_model.bin")
        (made / "open_clip_model.safetensors").unlink()
    return made


def mobile_clip_2(hub: Path) -> Path:
    return layout(
        hub, published("MobileCLIP2-S0"), {"mean": [0, 0, 0], "std": [1, 1, 1], "interpolation": "bilinear"}
    )


def pe_core(hub: Path) -> Path:
    return layout(hub, published("PE-Core-T-16-384"), {**PREPARED, "interpolation": "bilinear"})


def eva_02(hub: Path) -> Path:
    """The smallest picture tower of the kind."""
    config = published("EVA02-B-16")
    config["vision_cfg"].update(timm_model_name="eva02_tiny_patch14_224")
    return layout(hub, config, {}, ".bin")


def siglip_2(hub: Path) -> Path:
    """The tokenizer of Gemma lies beside the weights."""
    config = published("ViT-B-32-SigLIP2-256", vocab_size=300)
    config["embed_dim"], config["vision_cfg"]["timm_model_name"] = 192, "vit_tiny_patch16_224"
    config["vision_cfg"].update(image_size=224, timm_pool="token", timm_proj="linear")
    config["text_cfg"]["hf_tokenizer_name"] = str(hub)
    made = layout(hub, config, PREPARED)
    tiny_families.gemma_tokenizer(GemmaTokenizer).save_pretrained(made)
    return made


def coca(hub: Path) -> Path:
    config = published("coca_ViT-B-32")
    config["vision_cfg"].update(layers=2, width=64, head_width=32, attn_pooler_heads=2)
    config["multimodal_cfg"].update(width=64, heads=2, layers=2, attn_pooler_heads=2)
    return layout(hub, {**config, "embed_dim": 64}, {}, ".bin")


def biomed_clip(hub: Path) -> Path:
    """The text tower is a BERT of another repository, which has a vocab.txt and no tokenizer_config.json."""
    text = hub.parent / f"{hub.name}-bert"
    text.mkdir(parents=True)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *tiny_families.LETTERS]
    (text / "vocab.txt").write_text("\n".join([*tokens, *(f"##{letter}" for letter in tiny_families.LETTERS)]))
    BertConfig(vocab_size=57, max_position_embeddings=512, **tiny_families.SHAPE).save_pretrained(text)
    config = {
        "embed_dim": 32,
        "vision_cfg": {"timm_model_name": "vit_tiny_patch16_224", "timm_model_pretrained": False, "timm_pool": "",
                       "timm_proj": "linear", "image_size": 224},
        "text_cfg": {"hf_model_name": str(text), "hf_tokenizer_name": str(text), "hf_proj_type": "mlp",
                     "hf_pooler_type": "cls_last_hidden_state_pooler", "context_length": 256},
    }  # fmt: skip
    return layout(hub, config, {}, ".bin")


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "MobileCLIP 2": mobile_clip_2,
    "PE-Core": pe_core,
    "EVA-02": eva_02,
    "SigLIP 2": siglip_2,
    "CoCa": coca,
    "BiomedCLIP": biomed_clip,
}


def reference(hub: Path) -> tuple[np.ndarray, np.ndarray]:
    """What open_clip gives for TEXTS and SHOWN, with the tokenizer of the repository that it names."""
    model, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{hub}", pretrained_text=False)
    config = json.loads((hub / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    name = config.get("hf_tokenizer_name")
    if name:
        options = config.get("tokenizer_kwargs", {})
        tokenizer: Any = open_clip.tokenizer.HFTokenizer(name, context_length=config["context_length"], **options)
    else:
        tokenizer = open_clip.get_tokenizer(f"local-dir:{hub}")
    model.eval()
    with torch.inference_mode():
        texts = [model.encode_text(tokenizer([text]), normalize=True).numpy() for text in TEXTS]
        images = [model.encode_image(prepare(image)[None], normalize=True).numpy() for image in SHOWN]
    return np.concatenate(texts), np.concatenate(images)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_published_layout(name: str, tmp_path: Path) -> None:
    hub = LAYOUTS[name](tmp_path / "hub")
    model = bake_and_load({"OPEN_CLIP_MODEL_NAME": f"hf-hub:{hub}"}, tmp_path / "models")
    texts, images = reference(hub)
    assert_same(embed(model.text, TEXTS).tolist(), texts)
    assert_same(embed(model.image, SHOWN).tolist(), images)
