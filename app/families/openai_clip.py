"""The OpenAI CLIP family, with MetaCLIP and MetaCLIP 2: MODELS_DIR/openai_clip and openai_clip_processor.

Vectors are those of get_text_features() and get_image_features() of transformers, scaled to length 1.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from app.errors import ConfigurationError
from app.families.family import Family, ModelFolder
from app.processors.image import ImageProcessor
from app.processors.text import TextProcessor
from app.towers import Padding, TorchModel

_MODEL_TYPES = ("clip", "metaclip_2", "chinese_clip")


class OpenAICLIP(Family):
    name = "OpenAI CLIP"
    folders = (
        ModelFolder("openai_clip"),
        ModelFolder(
            "openai_clip_processor",
            ("tokenizer_config.json", "preprocessor_config.json", "processor_config.json"),
            has_weights=False,
        ),
    )
    variables: ClassVar = {
        "CLIP_MODEL_NAME": "what download.py bakes for pictures",
        "TEXT_MODEL_NAME": "what download.py bakes for texts",
        "CLIP_MODEL_TYPE": "openai: bake CLIP_MODEL_NAME as an OpenAI CLIP, whatever its name",
    }
    libraries = ("torch", "transformers")
    requirements = "requirements.txt"

    def is_named(self, names: Mapping[str, str]) -> bool:
        clip, text = names.get("CLIP_MODEL_NAME", ""), names.get("TEXT_MODEL_NAME", "")
        kind = names.get("CLIP_MODEL_TYPE", "").lower()
        if not clip.startswith(("openai/", "facebook/metaclip")) and not (clip and kind == "openai"):
            return False
        if clip != text:
            raise ConfigurationError(f"an OpenAI CLIP embeds texts and pictures: set TEXT_MODEL_NAME to {clip} too")
        return True

    def bake(self, names: Mapping[str, str], trust_remote_code: bool, downloads: Path, target: Path) -> None:
        from app.families.pretrained import bake_model

        bake_model(self, names["CLIP_MODEL_NAME"], _MODEL_TYPES, trust_remote_code, downloads, target)

    def load(self, models_dir: Path, trust_remote_code: bool) -> TorchModel:
        from app.families.pretrained import load_saved

        return load_saved(self, models_dir, trust_remote_code, _towers)


def _towers(model: Any, processor: Any, config: dict[str, Any]) -> TorchModel:
    from app.families.torch_towers import (
        Embeds,
        Normalized,
        by_image_processor,
        by_tokenizer,
        image_tower,
        text_tower,
    )

    # What the text tower has positions for; the tokenizer of a Long-CLIP still says 77.
    length = int(config.get("text_config", {}).get("max_position_embeddings", 77))
    tokenizer = processor.tokenizer
    text = by_tokenizer(tokenizer, length)
    return TorchModel(
        text=text_tower(
            Normalized(Embeds(model, model.get_text_features)),
            TextProcessor.from_tokenizer(tokenizer, length, list(text("a"))),
            text,
            Padding({"input_ids": tokenizer.pad_token_id or 0}, length),
        ),
        image=image_tower(
            Normalized(Embeds(model, model.get_image_features)),
            ImageProcessor.from_processor(processor.image_processor.to_dict()),
            by_image_processor(processor.image_processor),
        ),
        meta=config,
    )
