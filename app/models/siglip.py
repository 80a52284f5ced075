"""The SigLIP family, SigLIP 2 and its NaFlex variant included: MODELS_DIR/siglip.

Vectors are those of get_text_features() and get_image_features() of transformers, not scaled. Texts are
padded to the length that the model was trained with (64 tokens), whatever else is in the batch.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.models import Halves, Preparation
from app.models.files import hub_snapshot, read_config
from app.models.modules import first_item, image_half, locked, text_half
from app.models.preparation import ImagePreparation, TextPreparation
from app.models.pretrained import ImageFeatures, TextFeatures, download_model, load_model, load_processor

if TYPE_CHECKING:
    from app.models.baking import Names

_TRAINED_LENGTH = 64


def load(models_dir: Path, trust_remote_code: bool) -> Halves:
    """Load the model on the CPU in float32; raises ConfigurationError that names the folder."""
    folder = models_dir / "siglip"
    model = load_model(folder, trust_remote_code)
    processor = load_processor(_processor_folder(folder), trust_remote_code)
    config = read_config(folder)
    length = _length(config)
    text = _text_reference(processor.tokenizer, length)
    return Halves(
        text=text_half(
            TextFeatures(model),
            TextPreparation.from_tokenizer(processor.tokenizer, length, list(text("a")), pad_to_length=True),
            text,
        ),
        image=image_half(
            ImageFeatures(model),
            ImagePreparation.from_processor(processor.image_processor.to_dict()),
            _image_reference(processor),
        ),
        meta=config,
    )


def reference_preparation(models_dir: Path, half: str, trust_remote_code: bool) -> Preparation:
    """The library's own preparation of one half, "image" or "text", without the weights."""
    folder = models_dir / "siglip"
    processor = load_processor(_processor_folder(folder), trust_remote_code)
    if half == "image":
        return _image_reference(processor)
    return _text_reference(processor.tokenizer, _length(read_config(folder)))


def bake(names: "Names", downloads: Path, made: Path) -> None:
    """Write siglip/ and model_name into `made`; raises ConfigurationError."""
    assert names.siglip_model_name
    model, processor = download_model(names.siglip_model_name, downloads, names.trust_remote_code)
    model.save_pretrained(made / "siglip")
    processor.save_pretrained(made / "siglip")
    (made / "model_name").write_text(names.siglip_model_name)


def _processor_folder(folder: Path) -> Path:
    """Beside the weights; the old download.py left it in a hub cache below them."""
    return folder if (folder / "tokenizer_config.json").is_file() else hub_snapshot(folder)


def _length(config: dict[str, Any]) -> int:
    length: int = config.get("text_config", {}).get("max_position_embeddings", _TRAINED_LENGTH)
    return length


def _image_reference(processor: Any) -> Preparation:
    return lambda image: first_item(processor.image_processor(images=[image], return_tensors="pt"))


def _text_reference(tokenizer: Any, length: int) -> Preparation:
    options = {"padding": "max_length", "truncation": True, "max_length": length, "return_tensors": "pt"}
    return locked(lambda text: tokenizer([text], **options))
