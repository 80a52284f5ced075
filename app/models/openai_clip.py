"""The OpenAI CLIP family, with MetaCLIP and MetaCLIP 2: MODELS_DIR/openai_clip and openai_clip_processor.

Vectors are those of get_text_features() and get_image_features() of transformers, scaled to length 1.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.models import Halves, Padding, Preparation
from app.models.files import read_config
from app.models.modules import Normalized, first_item, image_half, locked, text_half
from app.models.preparation import ImagePreparation, TextPreparation
from app.models.pretrained import ImageFeatures, TextFeatures, download_model, load_model, load_processor

if TYPE_CHECKING:
    from app.models.baking import Names


def load(models_dir: Path, trust_remote_code: bool) -> Halves:
    """Load the model on the CPU in float32; raises ConfigurationError that names the folder."""
    folder = models_dir / "openai_clip"
    model = load_model(folder, trust_remote_code)
    processor = load_processor(models_dir / "openai_clip_processor", trust_remote_code)
    config = read_config(folder)
    length = _length(processor.tokenizer, model.config.text_config.max_position_embeddings)
    text = _text_reference(processor.tokenizer, length)
    return Halves(
        text=text_half(
            Normalized(TextFeatures(model)),
            TextPreparation.from_tokenizer(processor.tokenizer, length, list(text("a"))),
            text,
            Padding({"input_ids": processor.tokenizer.pad_token_id or 0}, length),
        ),
        image=image_half(
            Normalized(ImageFeatures(model)),
            ImagePreparation.from_processor(processor.image_processor.to_dict()),
            _image_reference(processor),
        ),
        meta=config,
    )


def reference_preparation(models_dir: Path, half: str, trust_remote_code: bool) -> Preparation:
    """The library's own preparation of one half, "image" or "text", without the weights."""
    processor = load_processor(models_dir / "openai_clip_processor", trust_remote_code)
    if half == "image":
        return _image_reference(processor)
    positions = read_config(models_dir / "openai_clip")["text_config"].get("max_position_embeddings", 77)
    return _text_reference(processor.tokenizer, _length(processor.tokenizer, positions))


def bake(names: "Names", downloads: Path, made: Path) -> None:
    """Write openai_clip/ and openai_clip_processor/ into `made`; raises ConfigurationError."""
    assert names.clip_model_name
    model, processor = download_model(names.clip_model_name, downloads, names.trust_remote_code)
    model.save_pretrained(made / "openai_clip")
    processor.save_pretrained(made / "openai_clip_processor")


def _length(tokenizer: Any, positions: int) -> int:
    return int(min(tokenizer.model_max_length, positions))


def _image_reference(processor: Any) -> Preparation:
    return lambda image: first_item(processor.image_processor(images=[image], return_tensors="pt"))


def _text_reference(tokenizer: Any, length: int) -> Preparation:
    return locked(lambda text: tokenizer([text], truncation=True, max_length=length, return_tensors="pt"))
