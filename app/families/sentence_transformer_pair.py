"""The sentence-transformers family: MODELS_DIR/clip for pictures, MODELS_DIR/text for texts."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from app.errors import ConfigurationError, first_line
from app.families.folders import HOW_TO_GET_A_MODEL, digest, read_config
from app.families.pretrained import cannot_load
from app.families.torch_towers import first_item, image_tower, locked, stay_offline, text_tower
from app.hub.download import discarded_if_unusable, download
from app.processors.image import ImageProcessor
from app.processors.text import TextProcessor
from app.towers import Padding, Processor, TorchModel, TorchTower

if TYPE_CHECKING:
    from app.families.names import Names


def load(models_dir: Path, trust_remote_code: bool) -> TorchModel:
    """Load both folders on the CPU in float32, once where they hold the same files.

    Raises ConfigurationError that names the folder and says how to get a model.
    """
    clip, text = models_dir / "clip", models_dir / "text"
    image_model = load_folder(clip, trust_remote_code)
    same = digest(clip) == digest(text)
    text_model = image_model if same else load_folder(text, trust_remote_code)
    return TorchModel(
        text=_checked(_text_tower, text_model, text, "texts"),
        image=_checked(_image_tower, image_model, clip, "pictures"),
        meta={"clip_model": read_config(clip), "text_model": read_config(text)},
    )


def library_processor(models_dir: Path, tower: str, trust_remote_code: bool) -> Processor:
    """The library's own preparation of one tower, "image" or "text", without the weights."""
    model = load_folder(models_dir / {"image": "clip", "text": "text"}[tower], trust_remote_code)
    model.to("meta")
    return _image_reference(model) if tower == "image" else _text_reference(model)


def bake(names: "Names", downloads: Path, made: Path) -> None:
    """Write clip/ and text/ into `made`; raises ConfigurationError."""
    for folder, name in (("clip", names.clip_model_name), ("text", names.text_model_name)):
        assert name
        source = download(name if "/" in name else f"sentence-transformers/{name}", downloads)
        with discarded_if_unusable(source):
            model = load_folder(source, names.trust_remote_code)
        model.save(str(made / folder), create_model_card=False)


class _ImageModule(torch.nn.Module):
    """Pixel values, float32 (items, 3, height, width), to embeddings."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return _embedding(self.model({"pixel_values": pixel_values, "modality": "image"}))


class _TextModule(torch.nn.Module):
    """Token ids and their mask, int64 (items, tokens), to embeddings."""

    def __init__(self, model: Any, extra: dict[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.extra = extra

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        return _embedding(self.model({**inputs, **self.extra}))


def _embedding(features: dict[str, torch.Tensor]) -> torch.Tensor:
    return features["sentence_embedding"]


def _image_reference(model: Any) -> Processor:
    return lambda image: {"pixel_values": first_item(model.preprocess([image]))["pixel_values"]}


def _image_tower(model: Any) -> TorchTower:
    processor = model[0].processor
    config = getattr(processor, "image_processor", processor).to_dict()
    return image_tower(_ImageModule(model), ImageProcessor.from_processor(config), _image_reference(model))


def _prompt(model: Any) -> str:
    return model.prompts.get(model.default_prompt_name) or ""


def _features(model: Any, text: str) -> dict[str, Any]:
    return dict(model.preprocess([text], prompt=_prompt(model) or None))


def _text_reference(model: Any) -> Processor:
    return locked(lambda text: _features(model, text))


def _text_tower(model: Any) -> TorchTower:
    tokenizer = model.tokenizer
    length = int(min(model.max_seq_length or tokenizer.model_max_length, tokenizer.model_max_length))
    reference = _text_reference(model)
    extra = {name: value for name, value in _features(model, "a").items() if not torch.is_tensor(value)}
    return text_tower(
        _TextModule(model, extra),
        TextProcessor.from_tokenizer(tokenizer, length, list(reference("a")), _prompt(model)),
        reference,
        Padding({"input_ids": tokenizer.pad_token_id or 0}, length),
    )


def load_folder(folder: Path, trust: bool) -> Any:
    """The SentenceTransformer in a folder, on the CPU, in float32; raises ConfigurationError."""
    stay_offline()
    from sentence_transformers import SentenceTransformer

    try:
        model = SentenceTransformer(
            str(folder.resolve()),
            device="cpu",
            trust_remote_code=trust,
            local_files_only=True,
            model_kwargs={"dtype": torch.float32},
            processor_kwargs={"backend": "pil"},
        )
    except Exception as error:
        raise cannot_load(folder, error) from error
    return model.eval()


def _checked(make: Callable[[Any], TorchTower], model: Any, folder: Path, kind: str) -> TorchTower:
    try:
        return make(model)
    except Exception as error:
        raise ConfigurationError(
            f"the model in {folder} does not take {kind} ({first_line(error)}); {HOW_TO_GET_A_MODEL}"
        ) from error
