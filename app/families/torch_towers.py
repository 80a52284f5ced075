"""What the families share in torch: towers that use our preparation of inputs where it equals the library's."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from app.families.weights import require_trained
from app.processors.image import ImageProcessor, PatchProcessor, TileProcessor
from app.processors.text import TextProcessor
from app.towers import Inputs, Padding, Processor, TorchTower

_log = logging.getLogger(__name__)

_SAMPLE_TEXT = "a photo of a dog"
SAMPLE_TEXTS = [
    "",
    " ",
    "\n",
    "A photo of a Cat.",
    "it's   50% off; don't (really) \t wait... <b>NOW</b> &amp; here, #1!",
    "word " * 600,
    "日本語 Ünïcode ﬁne ½ Straße",
    "🙂é",
    "<|endoftext|> [SEP] </s> <eos> <image>",
]
_SAMPLE_SIZES = [(1, 1), (9, 7), (640, 480), (333, 500), (50, 400), (224, 224), (1001, 300)]


class Embeds(torch.nn.Module):
    """A library's `model` by way of `embed`, which takes the inputs of one tower by name and gives (items, width).

    transformers wraps that as the pooler's output, but not before version 5, nor code from a model folder.
    """

    def __init__(self, model: torch.nn.Module, embed: Callable[..., Any]) -> None:
        super().__init__()
        self.model = model
        self._embed = embed

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        features = self._embed(**inputs)
        embeddings: torch.Tensor = features if torch.is_tensor(features) else features.pooler_output
        return embeddings


class Normalized(torch.nn.Module):
    """A module's embeddings (items, width), scaled to length 1."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(self.module(**inputs), dim=-1)


class FromPixels(torch.nn.Module):
    """Embeds uint8 crops or tiles (items, ..., height, width, 3) with a module that takes float pixel values.

    They are normalised in float32 whatever the module's precision is, and cast to that.
    """

    def __init__(self, module: torch.nn.Module, preparation: ImageProcessor | TileProcessor) -> None:
        super().__init__()
        self.module = module
        self.scale = preparation.scale
        # No buffers: those are rounded with the module.
        self.mean = torch.tensor(preparation.mean).reshape(3, 1, 1)
        self.std = torch.tensor(preparation.std).reshape(3, 1, 1)

    def forward(self, pixels: torch.Tensor, **others: torch.Tensor) -> torch.Tensor:
        if self.mean.device != pixels.device:  # once: such a copy waits for all that the GPU was given before
            self.mean, self.std = self.mean.to(pixels.device), self.std.to(pixels.device)
        pixel_values = (pixels.movedim(-1, -3) * self.scale - self.mean) / self.std
        parameter = next(self.module.parameters(), self.mean)
        embeddings: torch.Tensor = self.module(pixel_values=pixel_values.to(parameter.dtype), **others)
        return embeddings


def image_tower(
    module: torch.nn.Module,
    preparation: ImageProcessor | PatchProcessor | TileProcessor | None,
    reference: Processor,
    padding: Padding | None = None,
) -> TorchTower:
    """An image tower with our `preparation` if that gives the same pixel values as `reference`, else with that."""
    sample = Image.new("RGB", (32, 32))
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in _SAMPLE_SIZES]

    def same(ours: Processor) -> bool:
        return all(_same_inputs(ours(picture), reference(picture)) for picture in pictures)

    if isinstance(preparation, PatchProcessor) and same(preparation):
        return _tower(module, preparation, sample, padding)
    if isinstance(preparation, ImageProcessor | TileProcessor) and same(_as_floats(preparation)):
        return _tower(FromPixels(module, preparation), preparation, sample, padding)
    _log.info("pictures are prepared by the reference library, for it does more than resize and crop")
    return _tower(module, reference, sample, padding)


def text_tower(
    module: torch.nn.Module,
    preparation: TextProcessor | None,
    reference: Processor,
    padding: Padding | None = None,
    samples: Sequence[str] = SAMPLE_TEXTS,
) -> TorchTower:
    """A text tower with our `preparation` if that gives the same tokens as `reference`, else with that."""
    if preparation is not None and all(_same_inputs(preparation(text), reference(text)) for text in samples):
        return _tower(module, preparation, _SAMPLE_TEXT, padding)
    _log.info("texts are tokenized by the reference library, for it does more than its tokenizer.json")
    return _tower(module, reference, _SAMPLE_TEXT, padding)


def _tower(module: torch.nn.Module, processor: Processor, sample: Any, padding: Padding | None) -> TorchTower:
    """Raises ConfigurationError if it would compute with weights that its files lack."""
    require_trained(module, {name: torch.tensor(each)[None] for name, each in processor(sample).items()})
    return TorchTower(module, processor, sample, padding or Padding())


def locked(tokenize: Callable[[str], Mapping[str, Any]]) -> Processor:
    """A processor from a tokenizer that returns batches of one and is not safe to call from two threads at once."""
    lock = threading.Lock()

    def prepare(text: str) -> Inputs:
        with lock:
            features = tokenize(text)
        return first_item(features)

    return prepare


def first_item(features: Mapping[str, Any]) -> Inputs:
    """The arrays of the first item in a batch of tensors."""
    return {name: value[0].numpy() for name, value in features.items() if torch.is_tensor(value)}


def by_tokenizer(tokenizer: Any, length: int, **options: Any) -> Processor:
    """What a tokenizer of transformers makes of a text, cut at `length` tokens."""
    return locked(lambda text: tokenizer([text], truncation=True, max_length=length, return_tensors="pt", **options))


def by_image_processor(processor: Any) -> Processor:
    """What a processor of transformers makes of a picture."""
    return lambda image: first_item(processor(images=[image], return_tensors="pt"))


def _as_floats(preparation: ImageProcessor | TileProcessor) -> Processor:
    """What FromPixels makes of the crops or tiles, without a batch."""

    def prepare(image: Any) -> Inputs:
        inputs = preparation(image)
        pixels = inputs.pop("pixels").astype(np.float32)
        values = (pixels * np.float32(preparation.scale) - preparation.mean) / preparation.std
        return {"pixel_values": np.moveaxis(values, -1, -3), **inputs}

    return prepare


def _same_inputs(ours: Inputs, want: Inputs) -> bool:
    """Allows a few values that differ by one of 256 grey levels: a crop rounds at its own borders."""
    if ours.keys() != want.keys() or any(ours[name].shape != want[name].shape for name in want):
        return False
    differences = [np.abs(ours[name] - want[name]) for name in want]
    return all((each > 1e-5).sum() <= 1e-3 * each.size and each.max(initial=0) < 0.04 for each in differences)
