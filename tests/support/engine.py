"""An engine behind the same interface as the real ones, which fails on demand, and a model around it.

A vector is (number in the text, length of the text, ...), so that a test can tell whose it is. What a
text says decides what happens: "raise", "memory" (out of memory in any batch above two items, or in
any batch with "nomemory"), "broken", "nan", "hang", "panic" (of a native
library, which is no Exception), "exit" (SystemExit).
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from app.errors import EngineBroken, OutOfMemory
from app.settings import Settings
from app.towers import BatchLimits, Inputs, LoadedModel, Tower, Vectors

WIDTH = 4


class Panic(BaseException):
    """As pyo3 raises it where Rust code panics."""


def _open_gate() -> threading.Event:
    gate = threading.Event()
    gate.set()
    return gate


@dataclass
class FakeSession:
    """Keeps the items of each batch it was given; a batch takes `seconds`, and waits until `gate` is open."""

    seconds: float = 0.0
    gate: threading.Event = field(default_factory=_open_gate)
    batches: list[list[str]] = field(default_factory=list)

    def start(self, batch: Inputs) -> Callable[[], Vectors]:
        items = ["".join(map(chr, row)).rstrip("\0") for row in batch["input_ids"]]
        self.batches.append(items)
        time.sleep(self.seconds)
        self.gate.wait(60)
        if any("panic" in item for item in items):
            raise Panic("inside of the engine")
        if any("exit" in item for item in items):
            raise SystemExit(3)
        if any("broken" in item for item in items):
            raise EngineBroken("the device failed")
        if any("raise" in item for item in items):
            raise RuntimeError("inside of the engine")
        if any("nomemory" in item for item in items):
            raise OutOfMemory("does not fit into memory")
        if len(items) > 2 and any("memory" in item for item in items):
            raise OutOfMemory("does not fit into memory")
        while any("hang" in item for item in items):
            time.sleep(0.01)
        return lambda: np.array([vector_of(item) for item in items], np.float32)


class HeldSession(FakeSession):
    """Computes when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def start(self, batch: Inputs) -> Callable[[], Vectors]:
        self.go_on.wait(60)
        return super().start(batch)


def vector_of(text: str) -> list[float]:
    number = "".join(c for c in text if c.isdigit())
    return [float(number or -1), float(len(text)), float("nan") if "nan" in text else 0.0, 1.0]


def prepare_text(text: str) -> Inputs:
    return {"input_ids": np.array([ord(c) for c in text], np.int64)}


def prepare_image(image: Image.Image) -> Inputs:
    return prepare_text(f"picture {image.width}")


def fake_model(
    texts: FakeSession, images: FakeSession | None = None, max_tokens: int = 0
) -> Callable[[Settings], LoadedModel]:
    """A `load` for create_app; batches of texts hold at most `max_tokens`, if that is given."""

    def load(settings: Settings) -> LoadedModel:
        size = settings.max_batch or 32
        text = Tower(prepare_text, texts, BatchLimits(size, max_tokens or 100 * size))
        image = Tower(prepare_image, images or FakeSession(), BatchLimits(size, size * 20))
        return LoadedModel(text, image, WIDTH, {"a": 1}, "a test engine")

    return load
