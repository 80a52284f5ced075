"""What a model family is: its folders, its own variables, how it is loaded and baked."""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from app.errors import ConfigurationError
from app.towers import TorchModel


@dataclass(frozen=True)
class ModelFolder:
    """A folder below MODELS_DIR. It is recognised by any of the `markers`, files or patterns inside it."""

    name: str
    markers: tuple[str, ...] = ("config.json",)
    has_weights: bool = True

    def is_in(self, models_dir: Path) -> bool:
        """Whether the folder is there with one of its marker files."""
        return any(any((models_dir / self.name).glob(marker)) for marker in self.markers)


class Family(ABC):
    """One file in app/families. Its module imports no torch: what serves a compiled model has none.

    `variables` are the environment variables that name a model of it in baking, with their meaning. `libraries` are
    what loading needs, and `requirements` is the file that installs them.
    """

    name: str
    folders: tuple[ModelFolder, ...]
    variables: ClassVar[dict[str, str]]
    libraries: tuple[str, ...]
    requirements: str

    def is_named(self, names: Mapping[str, str]) -> bool:
        """Whether `names`, the variables that are set, ask for this family: whether its first one is among them.

        Raises ConfigurationError if they do and something is missing or does not fit.
        """
        return next(iter(self.variables)) in names

    @abstractmethod
    def bake(self, names: Mapping[str, str], trust_remote_code: bool, downloads: Path, target: Path) -> None:
        """Write this family's folders into `target`, from the hub by way of `downloads`.

        Raises ConfigurationError that says what to do.
        """

    @abstractmethod
    def load(self, models_dir: Path, trust_remote_code: bool) -> TorchModel:
        """Load the model on the CPU in float32, without network.

        Raises ConfigurationError that names the folder and says how to get a model.
        """


def require_libraries(family: Family) -> None:
    """Raises ConfigurationError with the command that installs what `family` needs and is not there."""
    for library in family.libraries:
        if importlib.util.find_spec(library) is None:
            raise ConfigurationError(
                f"a model of the {family.name} family needs {library}, which is not installed; "
                f"pip install -r {family.requirements}"
            )
