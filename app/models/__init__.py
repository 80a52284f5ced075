"""Model families: which folders they read, how an item is prepared, what GET /meta says."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app.contract import Vectors
from app.engines import Engine, Inputs
from app.settings import Settings


@dataclass(frozen=True)
class Tower:
    """One half of a model.

    `prepare` turns one text, or one upright RGB picture, into the arrays of one item; safe on any
    thread. `pad_values` names the value that pads an array on the right, where that is not 0.
    """

    prepare: Callable[[Any], Inputs]
    engine: Engine
    pad_values: dict[str, int] = field(default_factory=dict)

    def collate(self, items: list[Inputs]) -> Inputs:
        """Stack items into one batch, padded on the right to the longest."""
        batch: Inputs = {}
        for name, first in items[0].items():
            shapes = [item[name].shape for item in items]
            shape = tuple(max(sizes) for sizes in zip(*shapes, strict=True))
            array = np.full((len(items), *shape), self.pad_values.get(name, 0), first.dtype)
            for row, item in zip(array, items, strict=True):
                row[tuple(slice(size) for size in item[name].shape)] = item[name]
            batch[name] = array
        return batch

    def embed(self, items: list[Any]) -> Vectors:
        """Vectors of shape (items, width), float32, computed as one batch on this thread."""
        return self.engine.start(self.collate([self.prepare(item) for item in items]))()


@dataclass(frozen=True)
class Model:
    """A loaded model: vectors of both towers have the same `width`. `meta` is what GET /meta reports."""

    text: Tower
    image: Tower
    width: int
    meta: dict[str, Any]


def load_model(settings: Settings) -> Model:
    """Load the model below `settings.models_dir` and run a first inference; raises ConfigurationError."""
    from app.models import sentence_transformers

    return sentence_transformers.load(settings)
