"""Items of different lengths to one batch."""

import numpy as np

from app.towers import Empty, Inputs, Padding


def collate(items: list[Inputs], padding: Padding, empty: Empty = np.empty) -> Inputs:
    """Stack the arrays of items into those of one batch, padded on the right; types are kept.

    The arrays of several items are written where `empty` puts them; a single item is not copied.
    """
    batch: Inputs = {}
    for name in items[0]:
        arrays = [item[name] for item in items]
        shapes = {array.shape for array in arrays}
        shape = tuple(map(max, zip(*shapes, strict=True)))
        if len(shape) == 1 and padding.max_tokens is not None and not padding.same_length:
            shape = (padded_length(shape[0], padding.max_tokens),)
        is_padded = shapes != {shape}
        if len(arrays) == 1 and not is_padded:
            batch[name] = arrays[0][None]
            continue
        rows = batch[name] = empty((len(items), *shape), arrays[0].dtype)
        if is_padded:
            rows.fill(padding.values.get(name, 0))
        for row, array in enumerate(arrays):
            rows[row][tuple(map(slice, array.shape))] = array
    return batch


def padded_length(tokens: int, most: int) -> int:
    """The length to which a batch is padded whose longest text has `tokens`; `most` is the model's limit."""
    step = 1 if tokens <= 16 else 4 if tokens <= 32 else 8 if tokens <= 128 else 32
    return max(tokens, min(most, -(-tokens // step) * step))
