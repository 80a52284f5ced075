"""What computes towers. A new engine is one file in this folder and one line in ENGINES."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from app.engines.openvino import OpenVINO
from app.engines.torch import Torch
from app.errors import ConfigurationError
from app.settings import Settings
from app.towers import InferenceSession, Inputs

if TYPE_CHECKING:
    import torch


class Engine(Protocol):
    """A library that computes towers on a device. Its file imports that library only when it is used."""

    name: str
    """The value of ENGINE that chooses it; also a part of file names."""
    title: str
    """Its name for a reader."""
    devices: tuple[str, ...]
    """Of "cpu" and "cuda"."""

    def missing(self) -> str | None:
        """None if the library is installed, else what to do about it."""
        ...

    def device(self, settings: Settings) -> str:
        """The device that the settings choose; raises ConfigurationError if it is not there."""
        ...

    def precisions(self, settings: Settings) -> Sequence[str]:
        """The values of PRECISION in which this machine's device computes."""
        ...


@runtime_checkable
class ModuleEngine(Engine, Protocol):
    """An engine that computes torch modules as they are."""

    def open_module(self, module: "torch.nn.Module", precision: str, settings: Settings) -> InferenceSession:
        """The module on the device; it takes a batch's arrays by name and gives (items, width)."""
        ...


@runtime_checkable
class FileEngine(Engine, Protocol):
    """An engine that computes what it has made of torch modules once, without torch."""

    def version(self) -> str:
        """What is written by another version is made again."""
        ...

    def export(
        self, module: "torch.nn.Module", sample: Inputs, path: Path, *, any_length: bool, precision: str
    ) -> None:
        """Write a float32 module to files that begin with `path`, for batches of any size, as stored in `precision`.

        `sample` is a batch of two items. With `any_length` the second axis of its arrays, tokens or tiles, must
        be taken in any length. Raises NotCompiled if the engine does not take this module; anything else that is
        raised says nothing of the module.
        """
        ...

    def open_file(self, path: Path, precision: str, settings: Settings) -> InferenceSession:
        """What export() wrote to `path` in this precision."""
        ...


ENGINES: list[FileEngine | ModuleEngine] = [OpenVINO(), Torch()]
"""In the order in which ENGINE=auto asks for one that is there."""


def engine_named(name: str) -> FileEngine | ModuleEngine:
    """Raises ConfigurationError if there is no such engine."""
    for engine in ENGINES:
        if engine.name == name:
            return engine
    names = ", ".join(["auto", *(engine.name for engine in ENGINES)])
    raise ConfigurationError(f"ENGINE={name!r}: there is no such engine; choose one of {names}")
