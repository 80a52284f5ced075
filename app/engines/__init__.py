"""How a prepared batch becomes vectors."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy.typing as npt

from app.contract import ServiceError, Vectors

Inputs = dict[str, npt.NDArray[Any]]
"""Arrays by name: of one item without a batch dimension, or of a batch."""


class OutOfMemory(ServiceError):
    """The batch does not fit into the device's memory; a smaller one may."""

    status = 503


class EngineBroken(ServiceError):
    """The device cannot compute any more; only a restart helps."""

    status = 503


class Engine(Protocol):
    """Computes one tower on one device. `start` is never called from two threads at once."""

    def start(self, batch: Inputs) -> Callable[[], Vectors]:
        """Begin to compute; the returned function waits and gives float32 (items, width).

        Raises OutOfMemory, EngineBroken, or whatever the library raises for inputs it cannot take,
        here or in the returned function.
        """
        ...
