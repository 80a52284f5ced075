"""Models of the families that need transformers only, as the old download.py laid them out, and what they give."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

from tests.support import tiny_families
from tests.support.families import Case, as_hub_cache


def transformers_reference(folder: Path, normalized: bool, **text_options: Any) -> tuple[Any, Any]:
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    processor.tokenizer.padding_side = "right"

    def scaled(features: Any) -> np.ndarray:
        vectors = features.pooler_output
        array: np.ndarray = (vectors / vectors.norm(dim=-1, keepdim=True) if normalized else vectors).numpy()
        return array

    def texts(items: list[str]) -> np.ndarray:
        return scaled(model.get_text_features(**processor(text=items, return_tensors="pt", **text_options)))

    def images(items: list[Image.Image]) -> np.ndarray:
        return scaled(model.get_image_features(**processor(images=items, return_tensors="pt")))

    return texts, images


def old_openai(hub: dict[str, Path], models: Path) -> None:
    source = next(iter(hub.values()))
    (models / "openai_clip_processor").mkdir(parents=True)
    (models / "openai_clip").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(source / name, models / "openai_clip" / name)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, models / "openai_clip_processor" / name)
    images = json.loads((source / "processor_config.json").read_text())["image_processor"]
    (models / "openai_clip_processor" / "preprocessor_config.json").write_text(
        json.dumps({**images, "image_processor_type": "CLIPImageProcessorFast", "processor_class": "CLIPProcessor"})
    )
    (models / "trust_remote_code").write_text("False")


def old_siglip(hub: dict[str, Path], models: Path) -> None:
    name, source = next(iter(hub.items()))
    (models / "siglip").mkdir(parents=True)
    for file in ("config.json", "model.safetensors"):
        shutil.copy(source / file, models / "siglip" / file)
    shutil.copytree(source, models / "work")
    (models / "work" / "model.safetensors").unlink()
    as_hub_cache(models / "work", models / "siglip", name)
    shutil.rmtree(models / "work")
    (models / "model_name").write_text(name)
    (models / "trust_remote_code").write_text("False")


def openai_case(name: str, make: Callable[[Path], Path], length: int = 77) -> Case:
    return Case(
        make=lambda root: {name: make(root / "hub")},
        names={"CLIP_MODEL_NAME": name, "TEXT_MODEL_NAME": name, "CLIP_MODEL_TYPE": "openai"},
        lay_out_as_before=old_openai,
        reference=lambda hub: transformers_reference(
            hub[name], True, padding=True, truncation=True, max_length=length
        ),
    )


def siglip_case(name: str, make: Callable[[Path], Path]) -> Case:
    return Case(
        make=lambda root: {name: make(root / "hub")},
        names={"SIGLIP_MODEL_NAME": name},
        lay_out_as_before=old_siglip,
        reference=lambda hub: transformers_reference(
            hub[name], False, padding="max_length", truncation=True, max_length=64
        ),
    )


CASES = {
    "openai": openai_case("openai/clip-tiny", tiny_families.openai_clip),
    "metaclip2": openai_case("facebook/metaclip-2-tiny", tiny_families.metaclip2),
    "chinese": openai_case("someone/chinese-clip-tiny", tiny_families.chinese_clip, length=52),
    "siglip": siglip_case("google/siglip-tiny", tiny_families.siglip),
    "siglip2": siglip_case("google/siglip2-tiny", tiny_families.siglip2),
    "naflex": siglip_case("google/siglip2-tiny-naflex", tiny_families.naflex),
}
