"""A picture to a crop, without torch: what the CLIP image processors of transformers do with Pillow."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from app.towers import Inputs

# A resized picture above this many pixels is never made whole: only its crop is computed.
_MOST_RESIZED_PIXELS = 16_000_000


@dataclass(frozen=True)
class ImageProcessor:
    """Resize and centre-crop as the CLIP image processors of transformers do with Pillow.

    `shortest_edge` keeps the aspect ratio; without it the picture is resized to `height` x `width`.
    The pixels stay uint8: the engine computes (pixel * scale - mean) / std. TorchTower a pixel left of the crop is
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
    def from_processor(cls, config: dict[str, Any]) -> "ImageProcessor | None":
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

    def describe(self, folder: Path) -> dict[str, Any]:
        """JSON for from_description(); nothing is written to `folder`."""
        return asdict(self)

    @classmethod
    def from_description(cls, description: dict[str, Any], folder: Path) -> "ImageProcessor":
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
