"""A picture to a crop, without torch: what the CLIP image processors of transformers do with Pillow."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from app.processors.decode import Decoded
from app.processors.resize import resize_and_crop, upright_size
from app.towers import Inputs


def common_fields(config: dict[str, Any]) -> dict[str, Any] | None:
    """The fields that all processors of pictures here have, from the config of an image processor of transformers.

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
    def from_processor(cls, config: dict[str, Any]) -> "ImageProcessor | None":
        """From the config of an image processor of transformers; None if it does something else."""
        size, crop = config.get("size"), config.get("crop_size")
        if isinstance(size, int):
            size = {"shortest_edge": size} if config.get("do_center_crop") else {"height": size, "width": size}
        if isinstance(crop, int):
            crop = {"height": crop, "width": crop}
        common = common_fields(config)
        if common is None or config.get("do_pad") or not isinstance(size, dict):
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
            crop_to_even=config.get("crop_to_even", False),
            **common,
        )

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
