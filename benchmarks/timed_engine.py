"""The server around a device that takes a given time, or none: what the server makes of that time is its own doing.

    MODELS_DIR=demo/models PORT=8080 IMAGE_SECONDS=0.07 TEXT_SECONDS=0.007 python -m benchmarks.timed_engine

Requests are read, prepared and answered as ever. Only the model is replaced, by one that sleeps for so long for each
item, and BATCH_SECONDS for each batch (all 0 by default), and gives rows of width 512 that are made of the inputs.
With WORKERS=2 or more, so many processes take requests around one that has this engine; else one does both.
"""

import dataclasses
import os
import sys
import threading
import time
from collections.abc import Callable

import numpy as np

from app.main import create_app
from app.models.load import load_model
from app.processes import device
from app.processes.supervisor import Supervisor
from app.server import make_server
from app.settings import Settings, load_settings
from app.sockets import listen
from app.system import collect_garbage_less_often, raise_open_files, use_one_heap
from app.towers import BatchLimits, Inputs, LoadedModel, Tower, Vectors

WIDTH = 512
_MAX_ITEMS, _MAX_BATCH_SECONDS = 64, 0.1


class TimedSession:
    """Takes `seconds` for each item, and `batch_seconds` for each batch."""

    def __init__(self, seconds: float, batch_seconds: float) -> None:
        self._seconds = seconds
        self._batch_seconds = batch_seconds

    def start(self, batch: Inputs) -> Callable[[], Vectors]:
        arrays = list(batch.values())
        if seconds := self._batch_seconds + self._seconds * len(arrays[0]):
            time.sleep(seconds)
        rows = np.zeros((len(arrays[0]), WIDTH), np.float32)
        for column, array in enumerate(arrays):
            rows[:, column] = array.reshape(len(array), -1)[:, ::97].sum(1)
        return lambda: rows


def load_timed(settings: Settings) -> LoadedModel:
    """The processors of the real model around that engine."""
    model = load_model(settings)
    batch_seconds = float(os.environ.get("BATCH_SECONDS", "0"))

    def timed(tower: Tower, name: str) -> Tower:
        seconds = float(os.environ.get(name, "0"))
        items = max(1, min(_MAX_ITEMS, int(_MAX_BATCH_SECONDS / seconds))) if seconds else _MAX_ITEMS
        session, limits = TimedSession(seconds, batch_seconds), BatchLimits(items, items * 64)
        return dataclasses.replace(tower, session=session, limits=limits)

    text, image = timed(model.text, "TEXT_SECONDS"), timed(model.image, "IMAGE_SECONDS")
    return dataclasses.replace(model, text=text, image=image, width=WIDTH)


def load_for_device(settings: Settings, _: threading.Event) -> LoadedModel:
    return load_timed(settings)


def main() -> int:
    if sys.argv[1:]:  # as the device process
        file, supervisor = map(int, sys.argv[1:])
        return device.main(file, supervisor, load_for_device)
    settings = load_settings()
    sockets = listen(settings.host, settings.port)
    use_one_heap()
    raise_open_files()
    if settings.workers > 1:
        return Supervisor(settings, sockets, settings.workers, [settings], "benchmarks.timed_engine").run() or 0
    collect_garbage_less_often()
    make_server(create_app(settings, load_timed)).run(sockets)
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # as the server does: a thread may still be at work
