"""Items of different lengths to one batch."""

import numpy as np

from app.towers import Inputs, Padding


def collate(items: list[Inputs], padding: Padding) -> Inputs:
    """Stack the arrays of items into those of one batch, padded on the right; types are kept."""
    batch: Inputs = {}
    for name, first in items[0].items():
        shapes = [item[name].shape for item in items]
        shape = tuple(max(sizes) for sizes in zip(*shapes, strict=True))
        if len(shape) == 1 and padding.max_tokens is not None and not padding.same_length:
            shape = (padded_length(shape[0], padding.max_tokens),)
        array = np.full((len(items), *shape), padding.values.get(name, 0), first.dtype)
        for row, item in zip(array, items, strict=True):
            row[tuple(slice(size) for size in item[name].shape)] = item[name]
        batch[name] = array
    return batch


def padded_length(tokens: int, most: int) -> int:
    """The length to which a batch is padded whose longest text has `tokens`; `most` is the model's limit."""
    step = 1 if tokens <= 16 else 4 if tokens <= 32 else 8 if tokens <= 128 else 32
    return max(tokens, min(most, -(-tokens // step) * step))
