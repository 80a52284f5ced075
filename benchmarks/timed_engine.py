"""The server around a device that takes a given time, or none: what the server makes of that time is its own doing.

    MODELS_DIR=demo/models PORT=8080 IMAGE_SECONDS=0.07 TEXT_SECONDS=0.007 python -m benchmarks.timed_engine

Requests are read, prepared and answered as ever. Only the model is replaced, by one that sleeps for so long for each
item (0 by default) and gives rows of width 512 that are made of the inputs.
"""

import dataclasses
import os
import time
from collections.abc import Callable

import numpy as np

from app.heap import collect_garbage_less_often, use_one_heap
from app.main import create_app
from app.models.load import load_model
from app.server import make_server
from app.settings import Settings, load_settings
from app.sockets import listen
from app.towers import BatchLimits, Inputs, LoadedModel, Tower, Vectors

WIDTH = 512
_MAX_ITEMS, _MAX_BATCH_SECONDS = 64, 0.1


class TimedSession:
    """Takes `seconds` for each item."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def start(self, batch: Inputs) -> Callable[[], Vectors]:
        arrays = list(batch.values())
        if self._seconds:
            time.sleep(self._seconds * len(arrays[0]))
        rows = np.zeros((len(arrays[0]), WIDTH), np.float32)
        for column, array in enumerate(arrays):
            rows[:, column] = array.reshape(len(array), -1)[:, ::97].sum(1)
        return lambda: rows


def load_timed(settings: Settings) -> LoadedModel:
    """The processors of the real model around that engine."""
    model = load_model(settings)

    def timed(tower: Tower, name: str) -> Tower:
        seconds = float(os.environ.get(name, "0"))
        items = max(1, min(_MAX_ITEMS, int(_MAX_BATCH_SECONDS / seconds))) if seconds else _MAX_ITEMS
        return dataclasses.replace(tower, session=TimedSession(seconds), limits=BatchLimits(items, items * 64))

    text, image = timed(model.text, "TEXT_SECONDS"), timed(model.image, "IMAGE_SECONDS")
    return dataclasses.replace(model, text=text, image=image, width=WIDTH)


def main() -> None:
    settings = load_settings()
    use_one_heap()
    collect_garbage_less_often()
    make_server(create_app(settings, load_timed)).run(listen(settings.host, settings.port))


if __name__ == "__main__":
    main()
