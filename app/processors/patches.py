"""A picture to patches in its own shape, without torch: what the SigLIP 2 image processor of transformers does."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from app.processors.image import common_fields
from app.towers import Inputs


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
    def from_processor(cls, config: dict[str, Any]) -> "PatchProcessor | None":
        """From the config of that image processor; None if it does something else."""
        if (common := common_fields(config)) is None:
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
