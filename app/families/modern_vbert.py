"""The ModernVBERT family of colpali-engine: MODELS_DIR/colpali_engine_model and colpali_engine_processor.

Vectors are those of BiModernVBert: the mean over the tokens, scaled to length 1.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from app.families.folders import hub_snapshot, read_config
from app.families.pretrained import cannot_load
from app.families.torch_towers import first_item, locked, stay_offline, text_tower
from app.hub.download import discarded_if_unusable, download
from app.processors.text import TextProcessor
from app.towers import Padding, Processor, TorchModel, TorchTower

if TYPE_CHECKING:
    from app.families.names import Names

_SAMPLE_IMAGE = Image.new("RGB", (64, 48), "white")


def load(models_dir: Path, trust_remote_code: bool) -> TorchModel:
    """Load the model on the CPU in float32; raises ConfigurationError that names the folder."""
    model = _model(_folder(models_dir / "colpali_engine_model", "*.safetensors"))
    processor = _processor(_folder(models_dir / "colpali_engine_processor", "tokenizer_config.json"))
    tokenizer, length = processor.tokenizer, model.config.text_config.max_position_embeddings
    text = _text_reference(tokenizer, length)
    padding = Padding({"input_ids": tokenizer.pad_token_id or 0}, length)
    return TorchModel(
        text=text_tower(model, TextProcessor.from_tokenizer(tokenizer, length, list(text("a"))), text, padding),
        image=TorchTower(model, _image_reference(processor), _SAMPLE_IMAGE, Padding(padding.values)),
        meta=_meta(models_dir),
    )


def library_processor(models_dir: Path, tower: str, trust_remote_code: bool) -> Processor:
    """The library's own preparation of one tower, "image" or "text", without the weights."""
    processor = _processor(_folder(models_dir / "colpali_engine_processor", "tokenizer_config.json"))
    if tower == "image":
        return _image_reference(processor)
    config = read_config(_folder(models_dir / "colpali_engine_model", "*.safetensors"))
    return _text_reference(processor.tokenizer, config["text_config"]["max_position_embeddings"])


def bake(names: "Names", downloads: Path, made: Path) -> None:
    """Write colpali_engine_model/, colpali_engine_processor/ and model_name into `made`."""
    name = names.colpali_engine_model_name
    assert name
    source = download(name, downloads)
    with discarded_if_unusable(source):
        _model(source).save_pretrained(made / "colpali_engine_model")
        _processor(source).save_pretrained(made / "colpali_engine_processor")
    (made / "model_name").write_text(name)


def _folder(folder: Path, marker: str) -> Path:
    """Where the files are: in the folder, or in the hub cache that the old download.py made there."""
    return folder if any(folder.glob(marker)) else hub_snapshot(folder)


def _meta(models_dir: Path) -> dict[str, Any]:
    """In the shape of the file that the old download.py wrote."""
    folder = models_dir / "colpali_engine_model"
    config = read_config(folder)
    if "model_config" in config:
        return config
    return {
        "model_name": (models_dir / "model_name").read_text().strip(),
        "cache_dir": str(folder),
        "cache_dir_processor": str(models_dir / "colpali_engine_processor"),
        "model_config": config,
    }


def _model(folder: Path) -> Any:
    stay_offline()
    from colpali_engine.models import BiModernVBert

    try:
        return BiModernVBert.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    except Exception as error:
        raise cannot_load(folder, error) from error


def _processor(folder: Path) -> Any:
    stay_offline()
    from colpali_engine.models import BiModernVBertProcessor

    try:
        return BiModernVBertProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    except Exception as error:
        raise cannot_load(folder, error) from error


def _image_reference(processor: Any) -> Processor:
    return lambda image: first_item(processor.process_images([image]))


def _text_reference(tokenizer: Any, length: int) -> Processor:
    """As process_texts(), which only tokenizes, but cut at the model's length."""
    return locked(lambda text: tokenizer([text], truncation=True, max_length=length, return_tensors="pt"))
