"""Model families: which folders they read, how an item is prepared, what GET /meta says."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from app.contract import ConfigurationError, Vectors
from app.engines import Engine, Inputs

if TYPE_CHECKING:
    import torch

Preparation = Callable[[Any], Inputs]
"""Turns one text, or one upright RGB picture, into the arrays of one item; safe on any thread."""


@dataclass(frozen=True)
class Padding:
    """How items of different lengths become one batch: padded on the right.

    `values` names the value that pads an array, where that is not 0. With `max_tokens`, the longest that
    the model takes, long batches are padded to a few lengths only: an engine keeps what it made for each
    shape that it meets, and would fill the memory with them.
    """

    values: dict[str, int] = field(default_factory=dict)
    max_tokens: int | None = None

    def collate(self, items: list[Inputs]) -> Inputs:
        """Stack items into one batch."""
        batch: Inputs = {}
        for name, first in items[0].items():
            shapes = [item[name].shape for item in items]
            shape = tuple(max(sizes) for sizes in zip(*shapes, strict=True))
            if len(shape) == 1 and self.max_tokens is not None:
                shape = (self._length(shape[0], self.max_tokens),)
            array = np.full((len(items), *shape), self.values.get(name, 0), first.dtype)
            for row, item in zip(array, items, strict=True):
                row[tuple(slice(size) for size in item[name].shape)] = item[name]
            batch[name] = array
        return batch

    @staticmethod
    def _length(tokens: int, most: int) -> int:
        step = 1 if tokens <= 16 else 4 if tokens <= 32 else 8 if tokens <= 128 else 32
        return max(tokens, min(most, -(-tokens // step) * step))


@dataclass(frozen=True)
class Half:
    """One half of a model as its family loads it: a float32 torch module, and how its inputs are made.

    The module takes a batch's arrays by name and returns (items, width). `sample` is an item that it can take.
    """

    module: "torch.nn.Module"
    prepare: Preparation
    sample: Any
    padding: Padding = Padding()


@dataclass(frozen=True)
class Halves:
    """A model as its family loads it, and what GET /meta reports of it."""

    text: Half
    image: Half
    meta: dict[str, Any]


@dataclass(frozen=True)
class Tower:
    """One half of a model, ready to compute."""

    prepare: Preparation
    engine: Engine
    padding: Padding = Padding()

    def collate(self, items: list[Inputs]) -> Inputs:
        """Stack items into one batch."""
        return self.padding.collate(items)

    def embed(self, items: list[Any]) -> Vectors:
        """Vectors of shape (items, width), float32, computed as one batch on this thread."""
        return self.engine.start(self.collate([self.prepare(item) for item in items]))()


@dataclass(frozen=True)
class Model:
    """A loaded model: vectors of both towers have the same `width`. `meta` is what GET /meta reports.

    `engine` says in words what computes it.
    """

    text: Tower
    image: Tower
    width: int
    meta: dict[str, Any]
    engine: str


def check_widths(text: int, image: int) -> int:
    """The common width; raises ConfigurationError if they differ."""
    if text != image:
        raise ConfigurationError(
            f"the text model gives vectors of width {text}, the image model of width {image}; "
            "choose a text model that was made for this image model"
        )
    return image
