"""What a tower and a loaded model are: types only, known to all rooms."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Vectors = npt.NDArray[np.float32]
"""Embeddings, float32, of shape (items, width)."""

Vector = npt.NDArray[np.float32]
"""One embedding, float32, of shape (width,)."""

Inputs = dict[str, npt.NDArray[Any]]
"""Arrays by the names of the model's inputs: of one item without a batch dimension, or of a batch."""

Empty = Callable[[tuple[int, ...], np.dtype[Any]], npt.NDArray[Any]]
"""Gives an array of this shape and type, as numpy.empty does."""


class CutInputs(dict[str, npt.NDArray[Any]]):
    """Inputs of a text of which the model takes only the beginning."""


Processor = Callable[[Any], Inputs]
"""Turns one text, or one upright RGB picture, into the arrays of one item; safe on any thread."""


class InferenceSession(Protocol):
    """One tower opened by an engine on a device. `start` is never called from two threads at once."""

    def start(self, batch: Inputs) -> Callable[[], Vectors]:
        """Begin to compute; the returned function waits and gives float32 (items, width).

        Either raises OutOfMemory, EngineBroken, or what the library raises for inputs it cannot take.
        """


def memory_of(session: InferenceSession) -> Empty:
    """Makes arrays that a session takes without another copy: a GPU's has memory of its own for them."""
    empty: Empty = getattr(session, "empty", np.empty)
    return empty


class Elsewhere:
    """The session of a tower that another process computes."""

    def start(self, batch: Inputs) -> Callable[[], Vectors]:
        raise NotImplementedError("another process computes this tower")


@dataclass(frozen=True)
class Padding:
    """How items of different lengths become one batch: padded on the right.

    `values` pads an array where that is not 0. With `max_tokens`, the most that the model takes, batches are padded
    to a few lengths only: an engine keeps what it made for each shape. With `same_length` nothing is padded.
    """

    values: dict[str, int] = field(default_factory=dict)
    max_tokens: int | None = None
    same_length: bool = False


@dataclass(frozen=True)
class BatchLimits:
    """A batch holds at most `items` items and `tokens` tokens, padding included; a picture may be one token.

    With `same_length` its items have the same number of tokens.
    """

    items: int
    tokens: int
    same_length: bool = False


@dataclass(frozen=True)
class TorchTower:
    """One tower as its family loads it: a float32 torch module on the CPU, and how its inputs are made.

    The module takes a batch's arrays by name and returns (items, width). The processor takes `sample`.
    """

    module: "torch.nn.Module"
    processor: Processor
    sample: Any
    padding: Padding = Padding()


@dataclass(frozen=True)
class TorchModel:
    """Both towers as their family loads them, and what GET /meta reports of the model."""

    text: TorchTower
    image: TorchTower
    meta: dict[str, Any]


@dataclass(frozen=True)
class Tower:
    """One tower of a loaded model, ready to compute; batches beyond `limits` gain nothing.

    `width` is that of its vectors, and `item_bytes` the size of the arrays of a usual item.
    """

    processor: Processor
    session: InferenceSession
    limits: BatchLimits
    padding: Padding = Padding()
    item_bytes: int = 0
    width: int = 0


@dataclass(frozen=True)
class LoadedModel:
    """A model that has run: both towers give vectors of the same `width`.

    `engine` says in words what computes the model. `device_bytes` is the memory of the process that computes it, if
    that is another one.
    """

    text: Tower
    image: Tower
    width: int
    meta: dict[str, Any]
    engine: str
    precision: str = "float32"
    family: str = ""
    folder: str = ""
    device_bytes: int = 0

    @property
    def name(self) -> str:
        """A name for the model from its own configuration, which need not have one."""
        config = self.meta.get("clip_model", self.meta)
        for key in ("model_name", "_name_or_path", "name_or_path", "model_type"):
            name = config.get(key)
            # A path of the machine on which it was saved is no name.
            if isinstance(name, str) and name and not name.startswith("/"):
                return name
        return "multi2vec-clip"

    @property
    def title(self) -> str:
        """What computes the model, and in which precision."""
        return f"{self.engine}, in {self.precision}"
