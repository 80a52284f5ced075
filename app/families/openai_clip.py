"""The OpenAI CLIP family, with MetaCLIP and MetaCLIP 2: MODELS_DIR/openai_clip and openai_clip_processor.

Vectors are those of get_text_features() and get_image_features() of transformers, scaled to length 1.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.families.pretrained import bake_model, load_saved
from app.families.registry import OPENAI_CLIP
from app.families.torch_towers import Embeds, Normalized, by_image_processor, by_tokenizer, image_tower, text_tower
from app.processors.image import ImageProcessor
from app.processors.text import TextProcessor
from app.towers import Padding, TorchModel

_MODEL_TYPES = ("clip", "metaclip_2", "chinese_clip")


def bake(names: Mapping[str, str], trust_remote_code: bool, downloads: Path, target: Path) -> None:
    bake_model(OPENAI_CLIP, names["CLIP_MODEL_NAME"], _MODEL_TYPES, trust_remote_code, downloads, target)


def load(models_dir: Path, trust_remote_code: bool) -> TorchModel:
    return load_saved(OPENAI_CLIP, models_dir, trust_remote_code, _towers)


def _towers(model: Any, processor: Any, config: dict[str, Any]) -> TorchModel:
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
