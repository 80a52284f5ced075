"""The SigLIP family, SigLIP 2 and its NaFlex variant included: MODELS_DIR/siglip.

Vectors are those of get_text_features() and get_image_features() of transformers, not scaled. Texts are
padded to the length that the model was trained with (64 tokens), whatever else is in the batch. SigLIP 2 was trained
on texts in lower case (arXiv 2502.14786), which only its NaFlex variant makes of them by itself.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.families.family import Family, ModelFolder, Variable, require_libraries
from app.families.folders import hub_snapshot, loading, read_config
from app.families.tokenizer import from_sentencepiece, put_lower_case_first
from app.processors.image import ImageProcessor
from app.processors.patches import PatchProcessor
from app.processors.text import TextProcessor
from app.towers import Padding, Processor, TorchModel

_TRAINED_LENGTH = 64


class SigLIP:
    name = "SigLIP"
    folders = (ModelFolder("siglip"),)
    variables = (Variable("SIGLIP_MODEL_NAME", "SigLIP model that download.py bakes"),)
    libraries = ("torch", "transformers")
    requirements = "requirements.txt"

    def is_named(self, names: Mapping[str, str]) -> bool:
        return "SIGLIP_MODEL_NAME" in names

    def bake(self, names: Mapping[str, str], trust_remote_code: bool, downloads: Path, target: Path) -> None:
        require_libraries(self)
        from app.families.pretrained import download_model, save_model

        name = names["SIGLIP_MODEL_NAME"]
        source = download_model(name, downloads, trust_remote_code, model_types=("siglip", "siglip2"))
        save_model(source, trust_remote_code, target / "siglip", target / "siglip", _towers, lower_case=True)
        (target / "model_name").write_text(name, encoding="utf-8")

    def load(self, models_dir: Path, trust_remote_code: bool) -> TorchModel:
        require_libraries(self)
        from app.families.pretrained import load_model, load_processor

        folder = models_dir / "siglip"
        model = load_model(folder, trust_remote_code)
        processor = load_processor(_processor_folder(folder), trust_remote_code, lower_case=True)
        with loading(folder):
            return _towers(model, processor, read_config(folder))

    def library_processor(self, models_dir: Path, tower: str, trust_remote_code: bool) -> Processor:
        require_libraries(self)
        from app.families.pretrained import load_processor

        folder = models_dir / "siglip"
        processor = load_processor(_processor_folder(folder), trust_remote_code, lower_case=True)
        if tower == "image":
            return _image_reference(processor)
        return _text_reference(_in_lower_case(processor.tokenizer), _length(read_config(folder)))


FAMILY: Family = SigLIP()


def _towers(model: Any, processor: Any, config: dict[str, Any]) -> TorchModel:
    from app.families.pretrained import image_embeddings, text_embeddings
    from app.families.torch_towers import SAMPLE_TEXTS, Embeds, image_tower, text_tower

    tokenizer, length = _in_lower_case(processor.tokenizer), _length(config)
    text = _text_reference(tokenizer, length)
    return TorchModel(
        text=text_tower(
            Embeds(model, text_embeddings),
            _text_processor(tokenizer, length, list(text("a"))),
            text,
            Padding({"input_ids": tokenizer.pad_token_id or 0}, length),
            # A special token that a text spells out is read otherwise after the conversion, and means nothing.
            samples=SAMPLE_TEXTS[:-1] if _is_sentencepiece(tokenizer) else SAMPLE_TEXTS,
        ),
        image=image_tower(Embeds(model, image_embeddings), _image_processor(processor), _image_reference(processor)),
        meta=config,
    )


def _processor_folder(folder: Path) -> Path:
    """Beside the weights; the old download.py left it in a hub cache below them."""
    return folder if (folder / "tokenizer_config.json").is_file() else hub_snapshot(folder)


def _length(config: dict[str, Any]) -> int:
    length: int = config.get("text_config", {}).get("max_position_embeddings", _TRAINED_LENGTH)
    return length


def _in_lower_case(tokenizer: Any) -> Any:
    """The tokenizer, of SigLIP 2 with lower case first; that of SigLIP does it by itself."""
    if not _is_sentencepiece(tokenizer):
        put_lower_case_first(tokenizer)
    return tokenizer


def _image_reference(processor: Any) -> Processor:
    from app.families.torch_towers import first_item

    return lambda image: first_item(processor(images=[image], return_tensors="pt"))


def _text_reference(tokenizer: Any, length: int) -> Processor:
    from app.families.torch_towers import locked

    options = {"padding": "max_length", "truncation": True, "max_length": length, "return_tensors": "pt"}
    return locked(lambda text: tokenizer([text], **options))


def _image_processor(processor: Any) -> ImageProcessor | PatchProcessor | None:
    config = processor.image_processor.to_dict()
    if "max_num_patches" in config:
        return PatchProcessor.from_processor(config)
    return ImageProcessor.from_processor(config)


def _is_sentencepiece(tokenizer: Any) -> bool:
    return hasattr(tokenizer, "sp_model")


def _text_processor(tokenizer: Any, length: int, names: list[str]) -> TextProcessor:
    json_text = (
        from_sentencepiece(tokenizer) if _is_sentencepiece(tokenizer) else tokenizer.backend_tokenizer.to_str()
    )
    return TextProcessor(json_text, length, names, pad_id=tokenizer.pad_token_id, has_legacy=True)
