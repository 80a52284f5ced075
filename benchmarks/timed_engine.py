"""The server around a device that takes a given time: what it makes of that time is its own doing.

    MODELS_DIR=demo/models PORT=8080 IMAGE_SECONDS=0.07 TEXT_SECONDS=0.007 python -m benchmarks.timed_engine

Requests are read, prepared and answered as ever; only the model is replaced by one that sleeps for so long for each
item (0 by default) and gives rows that are made of the inputs.
"""

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from app.main import create_app
from app.models.load import load_model
from app.server import make_server, use_one_heap
from app.settings import Settings, load_settings
from app.sockets import listen
from app.towers import BatchLimits, Inputs, LoadedModel, Tower, Vectors

# What the model's own limits do not fit.
_BATCH_SECONDS, _MOST_ITEMS = 0.1, 32


class TimedSession:
    """Takes `seconds` for each item."""

    def __init__(self, seconds: float, width: int) -> None:
        self._seconds = seconds
        self._width = width

    def start(self, batch: Inputs) -> Callable[[], Vectors]:
        arrays = list(batch.values())
        if self._seconds:
            time.sleep(self._seconds * len(arrays[0]))
        rows = np.zeros((len(arrays[0]), self._width), np.float32)
        for column, array in enumerate(arrays):
            rows[:, column] = array.reshape(len(array), -1)[:, ::97].sum(1)
        return lambda: rows


def load(settings: Settings) -> LoadedModel:
    model = load_model(settings)

    def timed(tower: Tower, name: str) -> Tower:
        seconds = float(os.environ.get(name, "0"))
        items = max(1, min(_MOST_ITEMS, int(_BATCH_SECONDS / seconds))) if seconds else _MOST_ITEMS
        limits = BatchLimits(items, tower.limits.tokens // tower.limits.items * items)
        return dataclasses.replace(tower, session=TimedSession(seconds, model.width), limits=limits)

    return dataclasses.replace(
        model, image=timed(model.image, "IMAGE_SECONDS"), text=timed(model.text, "TEXT_SECONDS")
    )


def main() -> None:
    settings = load_settings()
    use_one_heap()
    os.chdir(Path(__file__).parents[1])
    make_server(create_app(settings, load)).run(listen(settings.host, settings.port))


if __name__ == "__main__":
    main()
