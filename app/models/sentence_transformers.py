"""The sentence-transformers family: MODELS_DIR/clip for pictures, MODELS_DIR/text for texts."""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from app.contract import ConfigurationError
from app.engines import Inputs
from app.models import Half, Halves, Padding, Preparation
from app.models.files import HOW_TO_GET_A_MODEL, digest, first_line, read_config
from app.models.preparation import ImagePreparation, TextPreparation

_log = logging.getLogger("uvicorn.error")

_SAMPLE_TEXTS = [
    "",
    " ",
    "\n",
    "A photo of a Cat.",
    "word " * 600,
    "日本語",
    "🙂é",
    "<|endoftext|> [SEP] </s>",
]
_SAMPLE_SIZES = [(1, 1), (9, 7), (640, 480), (333, 500), (50, 400), (224, 224), (1001, 300)]


def load(models_dir: Path, trust_remote_code: bool) -> Halves:
    """Load both folders on the CPU in float32, once where they hold the same files.

    Raises ConfigurationError that names the folder and says how to get a model.
    """
    clip, text = models_dir / "clip", models_dir / "text"
    image_model = load_folder(clip, trust_remote_code)
    same = digest(clip) == digest(text)
    text_model = image_model if same else load_folder(text, trust_remote_code)
    return Halves(
        text=_checked(_text_half, text_model, text, "texts"),
        image=_checked(_image_half, image_model, clip, "pictures"),
        meta={"clip_model": read_config(clip), "text_model": read_config(text)},
    )


def reference_preparation(models_dir: Path, half: str, trust_remote_code: bool) -> Preparation:
    """The library's own preparation of one half, "image" or "text", without the weights."""
    model = load_folder(models_dir / {"image": "clip", "text": "text"}[half], trust_remote_code)
    model.to("meta")
    return _reference_image(model) if half == "image" else _reference_text(model)


class _ImageModule(torch.nn.Module):
    """Pixels to embeddings: uint8 (items, height, width, 3) as prepared by us, or the reference's floats."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: Any, preparation: ImagePreparation | None) -> None:
        super().__init__()
        self.model = model
        if preparation is not None:
            self.scale = preparation.scale
            self.register_buffer("mean", torch.tensor(preparation.mean).reshape(3, 1, 1))
            self.register_buffer("std", torch.tensor(preparation.std).reshape(3, 1, 1))

    def forward(self, pixels: torch.Tensor | None = None, pixel_values: torch.Tensor | None = None) -> torch.Tensor:
        if pixels is not None:
            pixel_values = (pixels.permute(0, 3, 1, 2) * self.scale - self.mean) / self.std
        features = self.model({"pixel_values": pixel_values, "modality": "image"})
        return _embedding(features)


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


def _reference_image(model: Any) -> Preparation:
    def prepare(image: Image.Image) -> Inputs:
        return {"pixel_values": model.preprocess([image])["pixel_values"][0].numpy()}

    return prepare


def _image_half(model: Any) -> Half:
    reference = _reference_image(model)
    processor = model[0].processor
    config = getattr(processor, "image_processor", processor).to_dict()
    preparation = ImagePreparation.from_processor(config)
    if preparation is not None and not _same_pictures(preparation, reference):
        preparation = None
    if preparation is None:
        _log.info("pictures are prepared by transformers, for this processor does more than resize and crop")
    return Half(_ImageModule(model, preparation), preparation or reference, Image.new("RGB", (32, 32)))


def _same_pictures(preparation: ImagePreparation, reference: Preparation) -> bool:
    rng = np.random.default_rng(0)
    for width, height in _SAMPLE_SIZES:
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        pixels = preparation(image)["pixels"].astype(np.float32)
        ours = (pixels * np.float32(preparation.scale) - preparation.mean) / preparation.std
        want = reference(image)["pixel_values"]
        if ours.transpose(2, 0, 1).shape != want.shape or np.abs(ours.transpose(2, 0, 1) - want).max() > 1e-5:
            return False
    return True


def _features(model: Any, text: str) -> dict[str, Any]:
    prompt = model.prompts.get(model.default_prompt_name) or None
    return dict(model.preprocess([text], prompt=prompt))


def _reference_text(model: Any) -> Preparation:
    lock = threading.Lock()  # the tokenizers of transformers change themselves while they work

    def prepare(text: str) -> Inputs:
        with lock:
            features = _features(model, text)
        return {name: value[0].numpy() for name, value in features.items() if torch.is_tensor(value)}

    return prepare


def _text_half(model: Any) -> Half:
    reference = _reference_text(model)
    tokenizer = model.tokenizer
    extra = {name: value for name, value in _features(model, "a").items() if not torch.is_tensor(value)}
    prepare = reference
    length = int(min(model.max_seq_length or tokenizer.model_max_length, tokenizer.model_max_length))
    if getattr(tokenizer, "is_fast", False):
        prompt = model.prompts.get(model.default_prompt_name) or ""
        fast = TextPreparation(tokenizer.backend_tokenizer.to_str(), length, list(reference("a")), prompt)
        if all(_same_arrays(fast(text), reference(text)) for text in _SAMPLE_TEXTS):
            prepare = fast
    if prepare is reference:
        _log.info("texts are tokenized by transformers, for this tokenizer does more than its tokenizer.json")
    padding = Padding({"input_ids": tokenizer.pad_token_id or 0}, length)
    return Half(_TextModule(model, extra), prepare, "a photo of a dog", padding)


def _same_arrays(ours: Inputs, want: Inputs) -> bool:
    return ours.keys() == want.keys() and all(np.array_equal(ours[name], want[name]) for name in want)


def load_folder(folder: Path, trust: bool) -> Any:
    """The SentenceTransformer in a folder, on the CPU, in float32; raises ConfigurationError."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # before the first import: a baked model must never be looked up
    from sentence_transformers import SentenceTransformer

    try:
        model = SentenceTransformer(
            str(folder.resolve()),
            device="cpu",
            trust_remote_code=trust,
            local_files_only=True,
            model_kwargs={"dtype": torch.float32},
        )
    except Exception as error:
        raise ConfigurationError(
            f"cannot load the model in {folder}: {first_line(error)}; {HOW_TO_GET_A_MODEL}"
        ) from error
    return model.eval()


def _checked(make: Callable[[Any], Half], model: Any, folder: Path, kind: str) -> Half:
    try:
        return make(model)
    except Exception as error:
        raise ConfigurationError(
            f"the model in {folder} does not take {kind} ({first_line(error)}); {HOW_TO_GET_A_MODEL}"
        ) from error
