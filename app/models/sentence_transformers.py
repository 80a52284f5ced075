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
from app.cpus import usable_cpus
from app.engines import Inputs
from app.engines.torch import TorchEngine, torch_device
from app.models import Model, Tower
from app.models.files import HOW_TO_GET_A_MODEL, check_folder, digest, read_config, trust_remote_code
from app.models.preparation import ImagePreparation, TextPreparation
from app.settings import Settings

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


def load(settings: Settings) -> Model:
    """Load both folders, once where they hold the same files, and run a first inference.

    Raises ConfigurationError that names the folder and says how to get a model.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # a baked model must never be looked up
    torch.set_num_threads(settings.threads or usable_cpus())
    device = torch_device(settings)
    trust = trust_remote_code(settings)
    clip, text = settings.models_dir / "clip", settings.models_dir / "text"
    check_folder(clip)
    check_folder(text)
    image_model = _load_folder(clip, trust)
    same = digest(clip) == digest(text)
    text_model = image_model if same else _load_folder(text, trust)
    image_tower, image_width = _first_inference(
        lambda: _image_tower(image_model, device), clip, "pictures", Image.new("RGB", (32, 32))
    )
    text_tower, text_width = _first_inference(lambda: _text_tower(text_model, device), text, "texts", "a")
    if text_width != image_width:
        raise ConfigurationError(
            f"{text} gives vectors of width {text_width}, {clip} of width {image_width}; "
            "choose a text model that was made for this CLIP model"
        )
    meta = {"clip_model": read_config(clip), "text_model": read_config(text)}
    return Model(text_tower, image_tower, image_width, meta)


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


def _image_tower(model: Any, device: torch.device) -> Tower:
    def reference(image: Image.Image) -> Inputs:
        return {"pixel_values": model.preprocess([image])["pixel_values"][0].numpy()}

    processor = model[0].processor
    config = getattr(processor, "image_processor", processor).to_dict()
    preparation = ImagePreparation.from_processor(config)
    if preparation is not None and not _same_pictures(preparation, reference):
        preparation = None
    if preparation is None:
        _log.info("pictures are prepared by transformers, for this processor does more than resize and crop")
    return Tower(preparation or reference, TorchEngine(_ImageModule(model, preparation), device))


def _same_pictures(preparation: ImagePreparation, reference: Callable[[Image.Image], Inputs]) -> bool:
    rng = np.random.default_rng(0)
    for width, height in _SAMPLE_SIZES:
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        pixels = preparation(image)["pixels"].astype(np.float32)
        ours = (pixels * np.float32(preparation.scale) - preparation.mean) / preparation.std
        want = reference(image)["pixel_values"]
        if ours.transpose(2, 0, 1).shape != want.shape or np.abs(ours.transpose(2, 0, 1) - want).max() > 1e-5:
            return False
    return True


def _text_tower(model: Any, device: torch.device) -> Tower:
    prompt = model.prompts.get(model.default_prompt_name) or None
    lock = threading.Lock()  # the tokenizers of transformers change themselves while they work

    def features(text: str) -> dict[str, Any]:
        with lock:
            return dict(model.preprocess([text], prompt=prompt))

    def reference(text: str) -> Inputs:
        return {name: value[0].numpy() for name, value in features(text).items() if torch.is_tensor(value)}

    tokenizer = model.tokenizer
    pad_values = {"input_ids": tokenizer.pad_token_id or 0}
    extra = {name: value for name, value in features("a").items() if not torch.is_tensor(value)}
    prepare: Callable[[str], Inputs] = reference
    if getattr(tokenizer, "is_fast", False):
        names = list(reference("a"))
        length = min(model.max_seq_length or tokenizer.model_max_length, tokenizer.model_max_length)
        fast = TextPreparation(tokenizer.backend_tokenizer.to_str(), int(length), names, prompt or "")
        if all(_same_arrays(fast(text), reference(text)) for text in _SAMPLE_TEXTS):
            prepare = fast
    if prepare is reference:
        _log.info("texts are tokenized by transformers, for this tokenizer does more than its tokenizer.json")
    return Tower(prepare, TorchEngine(_TextModule(model, extra), device), pad_values)


def _same_arrays(ours: Inputs, want: Inputs) -> bool:
    return ours.keys() == want.keys() and all(np.array_equal(ours[name], want[name]) for name in want)


def _load_folder(folder: Path, trust: bool) -> Any:
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(
            str(folder.resolve()),
            device="cpu",
            trust_remote_code=trust,
            local_files_only=True,
            model_kwargs={"dtype": torch.float32},
        )
    except Exception as error:
        raise ConfigurationError(
            f"cannot load the model in {folder}: {_first_line(error)}; {HOW_TO_GET_A_MODEL}"
        ) from error


def _first_inference(make: Callable[[], Tower], folder: Path, kind: str, sample: Any) -> tuple[Tower, int]:
    try:
        tower = make()
        return tower, tower.embed([sample]).shape[1]
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"the model in {folder} does not take {kind} ({_first_line(error)}); {HOW_TO_GET_A_MODEL}"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
