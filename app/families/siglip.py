"""The SigLIP family, SigLIP 2 and its NaFlex variant included: MODELS_DIR/siglip.

Vectors are those of get_text_features() and get_image_features() of transformers, not scaled. Texts are
padded to the length that the model was trained with (64 tokens), whatever else is in the batch. SigLIP 2 was trained
on texts in lower case (arXiv 2502.14786), which only its NaFlex variant makes of them by itself.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.families.family import Family, ModelFolder, Variable, require_libraries
from app.families.folders import hub_snapshot
from app.families.tokenizer import from_sentencepiece, put_lower_case_first
from app.processors.image import ImageProcessor, PatchProcessor
from app.processors.text import TextProcessor
from app.towers import Padding, TorchModel

_TRAINED_LENGTH = 64


class SigLIP(Family):
    name = "SigLIP"
    folders = (ModelFolder("siglip"),)
    variables = (Variable("SIGLIP_MODEL_NAME", "SigLIP model that download.py bakes"),)
    libraries = ("torch", "transformers")
    requirements = "requirements.txt"

    def bake(self, names: Mapping[str, str], trust_remote_code: bool, downloads: Path, target: Path) -> None:
        require_libraries(self)
        from app.families.pretrained import download_model, save_model

        name = names["SIGLIP_MODEL_NAME"]
        source = download_model(name, downloads, trust_remote_code, model_types=("siglip", "siglip2"))
        save_model(source, trust_remote_code, target / "siglip", target / "siglip", _towers, lower_case=True)
        (target / "model_name").write_text(name, encoding="utf-8")

    def load(self, models_dir: Path, trust_remote_code: bool) -> TorchModel:
        require_libraries(self)
        from app.families.pretrained import load_saved

        folder = models_dir / "siglip"
        # The old download.py left the processor in a hub cache below the weights.
        processor = folder if (folder / "tokenizer_config.json").is_file() else hub_snapshot(folder)
        return load_saved(folder, processor, trust_remote_code, _towers, lower_case=True)


def _towers(model: Any, processor: Any, config: dict[str, Any]) -> TorchModel:
    from app.families.pretrained import image_embeddings, text_embeddings
    from app.families.torch_towers import (
        SAMPLE_TEXTS,
        Embeds,
        by_image_processor,
        by_tokenizer,
        image_tower,
        text_tower,
    )

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
            Embeds(model, text_embeddings),
            TextProcessor(tokenizer_json, length, list(text("a")), pad_id=pad_id, has_legacy=True),
            text,
            Padding({"input_ids": pad_id or 0}, length),
            samples,
        ),
        image=image_tower(
            Embeds(model, image_embeddings),
            (PatchProcessor if "max_num_patches" in image else ImageProcessor).from_processor(image),
            by_image_processor(processor),
        ),
        meta=config,
    )
