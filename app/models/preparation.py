"""Preparing one item without torch: a picture to a crop, a text to token ids.

Both follow a description in plain JSON, so that it can be kept beside a compiled model.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from app.engines import Inputs
from app.models.cleaning import clean

# A resized picture above this many pixels is never made whole: only its crop is computed.
_MOST_RESIZED_PIXELS = 16_000_000


@dataclass(frozen=True)
class ImagePreparation:
    """Resize and centre-crop as the CLIP image processors of transformers do with Pillow.

    `shortest_edge` keeps the aspect ratio; without it the picture is resized to `height` x `width`.
    The pixels stay uint8: the engine computes (pixel * scale - mean) / std. Half a pixel left of the crop is
    rounded down, with `crop_to_even` to the even pixel, as torchvision's CenterCrop does.
    """

    height: int
    width: int
    shortest_edge: int | None
    resample: int
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop_to_even: bool = False

    @classmethod
    def from_processor(cls, config: dict[str, Any]) -> "ImagePreparation | None":
        """From the config of an image processor of transformers; None if it does something else."""
        size, crop = config.get("size"), config.get("crop_size")
        if isinstance(size, int):
            size = {"shortest_edge": size} if config.get("do_center_crop") else {"height": size, "width": size}
        if isinstance(crop, int):
            crop = {"height": crop, "width": crop}
        steps = (config.get(f"do_{step}", True) for step in ("resize", "rescale", "normalize"))
        if not all(steps) or config.get("do_pad") or not isinstance(size, dict):
            return None
        final = crop if config.get("do_center_crop") else size
        if not final or not {"height", "width"} <= final.keys() or size.get("longest_edge"):
            return None
        edge = size.get("shortest_edge")
        too_small = edge is not None and edge < max(final["height"], final["width"])
        if too_small or (edge is None and final != size):
            return None
        return cls(
            height=final["height"],
            width=final["width"],
            shortest_edge=edge,
            resample=int(config.get("resample", Image.Resampling.BICUBIC)),
            scale=float(config.get("rescale_factor", 1 / 255)),
            mean=tuple(config["image_mean"]),
            std=tuple(config["image_std"]),
            crop_to_even=config.get("crop_to_even", False),
        )

    def describe(self) -> dict[str, Any]:
        """JSON for from_description()."""
        return asdict(self)

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> "ImagePreparation":
        mean, std = tuple(description["mean"]), tuple(description["std"])
        return cls(**{**description, "mean": mean, "std": std})

    def __call__(self, image: Image.Image) -> Inputs:
        """RGB picture to {"pixels": uint8 (height, width, 3)}."""
        size = self._resized_size(image.width, image.height)
        left, top = self._start(size[0] - self.width), self._start(size[1] - self.height)
        if size[0] * size[1] <= _MOST_RESIZED_PIXELS:
            image = image.resize(size, self.resample)
            image = image.crop((left, top, left + self.width, top + self.height))
        else:
            across, down = image.width / size[0], image.height / size[1]
            right = min(image.width, (left + self.width) * across)
            bottom = min(image.height, (top + self.height) * down)
            box = (left * across, top * down, right, bottom)
            image = image.resize((self.width, self.height), self.resample, box=box)
        return {"pixels": np.asarray(image)}

    def _start(self, surplus: int) -> int:
        return round(surplus / 2) if self.crop_to_even else surplus // 2

    def _resized_size(self, width: int, height: int) -> tuple[int, int]:
        edge = self.shortest_edge
        if edge is None:
            return self.width, self.height
        if width <= height:
            return edge, int(edge * height / width)
        return int(edge * width / height), edge


@dataclass(frozen=True)
class PatchPreparation:
    """Resize to whole patches, in the picture's own shape, as the SigLIP 2 image processor of transformers does.

    Gives patches padded to `max_patches`, their mask, and the rows and columns of patches.
    """

    patch: int
    max_patches: int
    resample: int
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def from_processor(cls, config: dict[str, Any]) -> "PatchPreparation | None":
        """From the config of that image processor; None if it does something else."""
        if not all(config.get(f"do_{step}", True) for step in ("resize", "rescale", "normalize")):
            return None
        return cls(
            patch=config["patch_size"],
            max_patches=config["max_num_patches"],
            resample=int(config["resample"]),
            scale=float(config["rescale_factor"]),
            mean=tuple(config["image_mean"]),
            std=tuple(config["image_std"]),
        )

    def describe(self) -> dict[str, Any]:
        """JSON for from_description()."""
        return asdict(self)

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> "PatchPreparation":
        mean, std = tuple(description["mean"]), tuple(description["std"])
        return cls(**{**description, "mean": mean, "std": std})

    def __call__(self, image: Image.Image) -> Inputs:
        """RGB picture to pixel_values, float32 (max_patches, patch * patch * 3), and int arrays."""
        rows, columns = self._shape(image.height, image.width)
        side = self.patch
        pixels = np.asarray(image.resize((columns * side, rows * side), self.resample), np.float32)
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        values = (pixels * np.float32(self.scale) - mean) / std
        patches = values.reshape(rows, side, columns, side, 3).swapaxes(1, 2).reshape(rows * columns, -1)
        padded = np.zeros((self.max_patches, patches.shape[1]), np.float32)
        padded[: len(patches)] = patches
        mask = (np.arange(self.max_patches) < len(patches)).astype(np.int32)
        return {"pixel_values": padded, "pixel_attention_mask": mask, "spatial_shapes": np.array([rows, columns])}

    def _shape(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches: the largest scale that fits, found to within 1e-5 by bisection."""

        def patches(scale: float) -> tuple[int, int]:
            rows, columns = (max(1, math.ceil(size * scale / self.patch)) for size in (height, width))
            return rows, columns

        low, high = 1e-6, 100.0
        while high - low >= 1e-5:
            middle = (low + high) / 2
            rows, columns = patches(middle)
            if rows * columns <= self.max_patches:
                low = middle
            else:
                high = middle
        return patches(low)


class TextPreparation:
    """Tokenize with the `tokenizers` library, cut at `max_length` tokens with the end token kept.

    `names` are the arrays that the model takes. With `pad_id` each text is padded on the right to
    `max_length`. `clean` names what comes first (app/models/cleaning.py). Safe to call from several threads:
    nothing is changed after construction.
    """

    def __init__(
        self,
        tokenizer_json: str,
        max_length: int,
        names: list[str],
        prompt: str = "",
        pad_id: int | None = None,
        clean: str = "",
    ) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer_json)
        self._tokenizer_json = tokenizer_json
        self._max_length = max_length
        self._names = names
        self._prompt = prompt
        self._pad_id = pad_id
        self._clean = clean
        self._tokenizer.enable_truncation(max_length)
        if pad_id is None:
            self._tokenizer.no_padding()
        else:
            self._tokenizer.enable_padding(direction="right", pad_id=pad_id, length=max_length)

    @classmethod
    def from_tokenizer(
        cls, tokenizer: Any, max_length: int, names: list[str], prompt: str = "", pad_to_length: bool = False
    ) -> "TextPreparation | None":
        """From a tokenizer of transformers; None if that is not made with the `tokenizers` library."""
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            return None
        return cls(backend.to_str(), max_length, names, prompt, tokenizer.pad_token_id if pad_to_length else None)

    def describe(self, folder: Path) -> dict[str, Any]:
        """JSON for from_description(); the tokenizer itself is written to `folder`/tokenizer.json."""
        (folder / "tokenizer.json").write_text(self._tokenizer_json)
        return {
            "max_length": self._max_length,
            "names": self._names,
            "prompt": self._prompt,
            "pad_id": self._pad_id,
            "clean": self._clean,
        }

    @classmethod
    def from_description(cls, description: dict[str, Any], folder: Path) -> "TextPreparation":
        return cls((folder / "tokenizer.json").read_text(), **description)

    def __call__(self, text: str) -> Inputs:
        """Text to int64 arrays of shape (tokens,), those that the model takes."""
        encoding = self._tokenizer.encode(self._prompt + clean(text, self._clean))
        arrays = {
            "input_ids": encoding.ids,
            "attention_mask": encoding.attention_mask,
            "token_type_ids": encoding.type_ids,
        }
        return {name: np.array(arrays[name], np.int64) for name in self._names}
