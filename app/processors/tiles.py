"""A picture to tiles and the tokens that stand for them, without torch: what colpali-engine does for ModernVBERT."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from app.processors.image import common_fields
from app.towers import Inputs

# The library makes larger pictures smaller again.
_LONGEST = 4096


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
    def from_processor(
        cls, config: dict[str, Any], prompt: Callable[[int, int], list[int]]
    ) -> "TileProcessor | None":
        """From the config of that image processor; None if it does something else.

        `prompt` gives the tokens for so many rows and columns of tiles.
        """
        side, longest = config["max_image_size"].get("longest_edge"), config["size"].get("longest_edge")
        common = common_fields(config)
        if common is None or not side or not longest or longest % side or longest % 2 or longest > _LONGEST:
            return None
        is_cut = bool(config["do_image_splitting"])
        most = longest // side if is_cut else 1
        grids = {(most, n) for n in range(1, most + 1)} | {(n, most) for n in range(1, most + 1)}
        return cls(
            side=side,
            longest=longest,
            is_cut=is_cut,
            prompts={_grid_name(*grid): prompt(*grid) for grid in sorted(grids)},
            **common,
        )

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
        input_ids = np.array(self.prompts[_grid_name(rows, columns)], np.int64)
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


def _grid_name(rows: int, columns: int) -> str:
    return f"{rows}x{columns}"
