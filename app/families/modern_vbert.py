"""The ModernVBERT family of colpali-engine: MODELS_DIR/colpali_engine_model and colpali_engine_processor.

Vectors are those of BiModernVBert: the mean over the tokens, scaled to length 1.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from app.families.family import Family, ModelFolder, Variable, require_libraries
from app.families.folders import cannot_load, hub_snapshot, read_config, without_damaged_files
from app.processors.text import TextProcessor
from app.towers import Padding, Processor, TorchModel, TorchTower

_SAMPLE_IMAGE_SIZE = (64, 48)


class ModernVBERT:
    name = "ModernVBERT"
    folders = (
        ModelFolder("colpali_engine_model"),
        ModelFolder(
            "colpali_engine_processor",
            ("tokenizer_config.json", "models--*/snapshots/*/tokenizer_config.json"),
            has_weights=False,
        ),
    )
    variables = (Variable("COLPALI_ENGINE_MODEL_NAME", "ModernVBERT model that download.py bakes"),)
    libraries = ("torch", "colpali_engine")
    requirements = "requirements/colpali.txt"

    def is_named(self, names: Mapping[str, str]) -> bool:
        return "COLPALI_ENGINE_MODEL_NAME" in names

    def bake(self, names: Mapping[str, str], trust_remote_code: bool, downloads: Path, target: Path) -> None:
        require_libraries(self)
        from app.families.pretrained import require_model_type
        from app.hub.download import download

        name = names["COLPALI_ENGINE_MODEL_NAME"]
        source = download(name, downloads)
        require_model_type(name, source, ("modernvbert",))
        with without_damaged_files(source):
            _model(source).save_pretrained(target / "colpali_engine_model")
            _processor(source).save_pretrained(target / "colpali_engine_processor")
        (target / "model_name").write_text(name, encoding="utf-8")

    def load(self, models_dir: Path, trust_remote_code: bool) -> TorchModel:
        require_libraries(self)
        from app.families.torch_towers import text_tower

        model = _model(_model_folder(models_dir))
        processor = _processor(_processor_folder(models_dir))
        length, text = _length(models_dir), _text_reference(processor, models_dir)
        padding = Padding({"input_ids": processor.tokenizer.pad_token_id or 0}, length)
        return TorchModel(
            text=text_tower(
                model, TextProcessor.from_tokenizer(processor.tokenizer, length, list(text("a"))), text, padding
            ),
            image=TorchTower(
                model,
                _image_reference(processor),
                Image.new("RGB", _SAMPLE_IMAGE_SIZE, "white"),
                Padding(padding.values),
            ),
            meta=_meta(models_dir),
        )

    def library_processor(self, models_dir: Path, tower: str, trust_remote_code: bool) -> Processor:
        require_libraries(self)
        processor = _processor(_processor_folder(models_dir))
        return _image_reference(processor) if tower == "image" else _text_reference(processor, models_dir)


FAMILY: Family = ModernVBERT()


def _model_folder(models_dir: Path) -> Path:
    """Where the weights are: in the folder, or in the hub cache that the old download.py made there."""
    folder = models_dir / "colpali_engine_model"
    return folder if any(folder.glob("*.safetensors")) else hub_snapshot(folder)


def _processor_folder(models_dir: Path) -> Path:
    folder = models_dir / "colpali_engine_processor"
    return folder if (folder / "tokenizer_config.json").is_file() else hub_snapshot(folder)


def _length(models_dir: Path) -> int:
    length: int = read_config(_model_folder(models_dir))["text_config"]["max_position_embeddings"]
    return length


def _meta(models_dir: Path) -> dict[str, Any]:
    """In the shape of the file that the old download.py wrote."""
    folder = models_dir / "colpali_engine_model"
    config = read_config(folder)
    if "model_config" in config:
        return config
    return {
        "model_name": (models_dir / "model_name").read_text(encoding="utf-8").strip(),
        "cache_dir": str(folder),
        "cache_dir_processor": str(models_dir / "colpali_engine_processor"),
        "model_config": config,
    }


def _model(folder: Path) -> Any:
    import torch

    from app.families.torch_towers import stay_offline

    stay_offline()
    from colpali_engine.models import BiModernVBert

    try:
        return BiModernVBert.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    except Exception as error:
        raise cannot_load(folder, error) from error


def _processor(folder: Path) -> Any:
    from app.families.torch_towers import stay_offline

    stay_offline()
    from colpali_engine.models import BiModernVBertProcessor

    try:
        return BiModernVBertProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    except Exception as error:
        raise cannot_load(folder, error) from error


def _image_reference(processor: Any) -> Processor:
    from app.families.torch_towers import first_item

    return lambda image: first_item(processor.process_images([image]))


def _text_reference(processor: Any, models_dir: Path) -> Processor:
    """As process_texts(), which only tokenizes, but cut at the model's length."""
    from app.families.torch_towers import locked

    options = {"truncation": True, "max_length": _length(models_dir), "return_tensors": "pt"}
    return locked(lambda text: processor.tokenizer([text], **options))
