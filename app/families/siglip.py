"""The SigLIP family, SigLIP 2 and its NaFlex variant included: MODELS_DIR/siglip.

Vectors are those of get_text_features() and get_image_features() of transformers, not scaled. Texts are
padded to the length that the model was trained with (64 tokens), whatever else is in the batch. SigLIP 2 was trained
on texts in lower case (arXiv 2502.14786), which only its NaFlex variant makes of them by itself.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.families.pretrained import bake_model, load_saved
from app.families.registry import SIGLIP
from app.families.tokenizer import from_sentencepiece, put_lower_case_first
from app.families.torch_towers import SAMPLE_TEXTS, Embeds, by_image_processor, by_tokenizer, image_tower, text_tower
from app.processors.image import ImageProcessor, PatchProcessor
from app.processors.text import TextProcessor
from app.towers import Padding, TorchModel

_TRAINED_LENGTH = 64


def bake(names: Mapping[str, str], trust_remote_code: bool, downloads: Path, target: Path) -> None:
    bake_model(SIGLIP, names["SIGLIP_MODEL_NAME"], ("siglip", "siglip2"), trust_remote_code, downloads, target)


def load(models_dir: Path, trust_remote_code: bool) -> TorchModel:
    return load_saved(SIGLIP, models_dir, trust_remote_code, _towers)


def _towers(model: Any, processor: Any, config: dict[str, Any]) -> TorchModel:
    tokenizer, samples = processor.tokenizer, SAMPLE_TEXTS
    if hasattr(tokenizer, "sp_model"):  # SigLIP, which makes lower case by itself
        tokenizer_json = from_sentencepiece(tokenizer)
        # The conversion reads a special token that a text spells out in another way, and that means nothing.
        samples = SAMPLE_TEXTS[:-1]
    else:
        put_lower_case_first(tokenizer)
        tokenizer_json = tokenizer.backend_tokenizer.to_str()
    length = config.get("text_config", {}).get("max_position_embeddings", _TRAINED_LENGTH)
    text, pad_id = by_tokenizer(tokenizer, length, padding="max_length"), tokenizer.pad_token_id
    image = processor.image_processor.to_dict()
    return TorchModel(
        text=text_tower(
            Embeds(model, model.get_text_features),
            TextProcessor(tokenizer_json, length, list(text("a")), pad_id=pad_id, has_legacy=True),
            text,
            Padding({"input_ids": pad_id or 0}, length),
            samples,
        ),
        image=image_tower(
            Embeds(model, model.get_image_features),
            (PatchProcessor if "max_num_patches" in image else ImageProcessor).from_processor(image),
            by_image_processor(processor),
        ),
        meta=config,
    )
