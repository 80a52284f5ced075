"""A picture to what a model takes, without torch: a crop, patches or tiles, as transformers makes them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from PIL import Image

from app.processors.decode import Decoded
from app.processors.resize import resize_and_crop, upright_size
from app.towers import Inputs


def _common_fields(config: dict[str, Any]) -> dict[str, Any] | None:
    """The fields that all processors of pictures have, from the config of an image processor of transformers.

    None if that leaves out one of the steps in which they are used.
    """
    if not all(config.get(f"do_{step}", True) for step in ("resize", "rescale", "normalize")):
        return None
    return {
        "resample": int(config.get("resample", Image.Resampling.BICUBIC)),
        "scale": float(config.get("rescale_factor", 1 / 255)),
        "mean": tuple(config["image_mean"]),
        "std": tuple(config["image_std"]),
    }


@dataclass(frozen=True)
class ImageProcessor:
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
    def from_processor(cls, config: dict[str, Any]) -> Self | None:
        """From the config of an image processor of transformers; None if it does something else."""
        size, common = config.get("size"), _common_fields(config)
        final = config.get("crop_size") if config.get("do_center_crop") else size
        if common is None or not isinstance(size, dict) or not isinstance(final, dict):
            return None
        if not {"height", "width"} <= final.keys():
            return None
        edge = size.get("shortest_edge")
        if edge is not None and edge < max(final["height"], final["width"]):
            return None
        return cls(final["height"], final["width"], edge, **common)

    def __call__(self, image: Image.Image) -> Inputs:
        """Upright RGB picture to {"pixels": uint8 (height, width, 3)}."""
        return self.prepare(Decoded(image, image.size))

    def prepare(self, picture: Decoded, fast: bool = False) -> Inputs:
        """The same from a picture as it is stored (see resize_and_crop)."""
        width, height = self.resized_size(*upright_size(picture))
        corner = self._start(width - self.width), self._start(height - self.height)
        crop = resize_and_crop(picture, (width, height), corner, (self.width, self.height), self.resample, fast)
        return {"pixels": np.asarray(crop)}

    def _start(self, surplus: int) -> int:
        return round(surplus / 2) if self.crop_to_even else surplus // 2

    def resized_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height to which an upright picture is resized before it is cropped."""
        edge = self.shortest_edge
        if edge is None:
            return self.width, self.height
        if width <= height:
            return edge, int(edge * height / width)
        return int(edge * width / height), edge


@dataclass(frozen=True)
class PatchProcessor:
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
    def from_processor(cls, config: dict[str, Any]) -> Self | None:
        """From the config of that image processor; None if it does something else."""
        if (common := _common_fields(config)) is None:
            return None
        return cls(patch=config["patch_size"], max_patches=config["max_num_patches"], **common)

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


@dataclass(frozen=True)
class TileProcessor:
    """Resize, cut into tiles, and add the whole picture as one more, as Idefics3 of transformers does with Pillow.

    The longer edge of a picture becomes `longest` pixels, however small it is. Then it is stretched to whole tiles of
    `side` x `side` pixels, or to a single one unless it `is_cut`. A picture of a single tile is not added again.
    `prompts` has the tokens for "ROWSxCOLUMNS" tiles. The pixels stay uint8: the engine computes
    (pixel * scale - mean) / std.
    """

    side: int
    longest: int
    is_cut: bool
    resample: int
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    prompts: dict[str, list[int]]

    @classmethod
    def from_processor(cls, config: dict[str, Any], prompt: Callable[[int, int], list[int]]) -> Self | None:
        """From the config of that image processor; None if it does something else.

        `prompt` gives the tokens for so many rows and columns of tiles.
        """
        side, longest = config["max_image_size"].get("longest_edge"), config["size"].get("longest_edge")
        common = _common_fields(config)
        if common is None or not side or not longest or longest % side:
            return None
        is_cut = bool(config["do_image_splitting"])
        most = longest // side if is_cut else 1
        grids = {(most, n) for n in range(1, most + 1)} | {(n, most) for n in range(1, most + 1)}
        prompts = {f"{rows}x{columns}": prompt(rows, columns) for rows, columns in sorted(grids)}
        return cls(side, longest, is_cut, prompts=prompts, **common)

    def __call__(self, image: Image.Image) -> Inputs:
        """Upright RGB picture to pixels, uint8 (tiles, side, side, 3), and the tokens, int64 (tokens,)."""
        side = self.side
        image = image.resize(self._with_longest_edge(*image.size), self.resample)
        rows, columns = self._grid(*image.size)
        image = image.resize((columns * side, rows * side), self.resample)
        pixels = np.asarray(image).reshape(rows, side, columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
        if rows * columns > 1:
            whole = np.asarray(image.resize((side, side), self.resample))
            pixels = np.concatenate([pixels, whole[np.newaxis]])
        input_ids = np.array(self.prompts[f"{rows}x{columns}"], np.int64)
        return {"pixels": pixels, "input_ids": input_ids, "attention_mask": np.ones_like(input_ids)}

    def _with_longest_edge(self, width: int, height: int) -> tuple[int, int]:
        """The shorter edge is even, and rounded as the library does it."""
        ratio = width / height
        shorter = int(self.longest / ratio) if width >= height else int(self.longest * ratio)
        shorter = max(1, shorter + shorter % 2)
        return (self.longest, shorter) if width >= height else (shorter, self.longest)

    def _grid(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of tiles; the shorter edge is computed from the longer one, as the library does it."""
        if not self.is_cut:
            return 1, 1
        ratio, most = width / height, self.longest // self.side
        if width >= height:
            return math.ceil(int(self.longest / ratio) / self.side), most
        return most, math.ceil(int(self.longest * ratio) / self.side)
