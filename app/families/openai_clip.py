"""The OpenAI CLIP family, with MetaCLIP and MetaCLIP 2: MODELS_DIR/openai_clip and openai_clip_processor.

Vectors are those of get_text_features() and get_image_features() of transformers, scaled to length 1.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.families.folders import read_config
from app.families.pretrained import ImageFeatures, TextFeatures, download_model, load_model, load_processor
from app.families.torch_towers import Normalized, first_item, image_tower, locked, text_tower
from app.processors.image import ImageProcessor
from app.processors.text import TextProcessor
from app.towers import Padding, Processor, TorchModel

if TYPE_CHECKING:
    from app.families.names import Names


def load(models_dir: Path, trust_remote_code: bool) -> TorchModel:
    """Load the model on the CPU in float32; raises ConfigurationError that names the folder."""
    folder = models_dir / "openai_clip"
    model = load_model(folder, trust_remote_code)
    processor = load_processor(models_dir / "openai_clip_processor", trust_remote_code)
    config = read_config(folder)
    length = _length(processor.tokenizer, model.config.text_config.max_position_embeddings)
    text = _text_reference(processor.tokenizer, length)
    return TorchModel(
        text=text_tower(
            Normalized(TextFeatures(model)),
            TextProcessor.from_tokenizer(processor.tokenizer, length, list(text("a"))),
            text,
            Padding({"input_ids": processor.tokenizer.pad_token_id or 0}, length),
        ),
        image=image_tower(
            Normalized(ImageFeatures(model)),
            ImageProcessor.from_processor(processor.image_processor.to_dict()),
            _image_reference(processor),
        ),
        meta=config,
    )


def library_processor(models_dir: Path, tower: str, trust_remote_code: bool) -> Processor:
    """The library's own preparation of one tower, "image" or "text", without the weights."""
    processor = load_processor(models_dir / "openai_clip_processor", trust_remote_code)
    if tower == "image":
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


def _image_reference(processor: Any) -> Processor:
    return lambda image: first_item(processor.image_processor(images=[image], return_tensors="pt"))


def _text_reference(tokenizer: Any, length: int) -> Processor:
    return locked(lambda text: tokenizer([text], truncation=True, max_length=length, return_tensors="pt"))
