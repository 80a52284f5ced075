"""The model families, in the order in which a model folder is asked what it holds."""

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.contract import ConfigurationError
from app.models import Preparation

if TYPE_CHECKING:
    from app.models import Halves
    from app.models.baking import Names


@dataclass(frozen=True)
class Family:
    """A family of models: the folders below MODELS_DIR that hold one, and the module that knows it.

    `marker` is a file that must be in each of the folders with `weights`.
    The module gives load(), reference_preparation() and bake(); it needs `libraries`, which the file
    `requirements` installs.
    """

    name: str
    module: str
    folders: tuple[str, ...]
    weights: tuple[str, ...]
    marker: str
    libraries: tuple[str, ...]
    requirements: str = "requirements.txt"

    def load(self, models_dir: Path, trust_remote_code: bool) -> "Halves":
        """Load the model on the CPU in float32; raises ConfigurationError."""
        halves: Halves = self._imported().load(models_dir, trust_remote_code)
        return halves

    def reference_preparation(self, models_dir: Path, half: str, trust_remote_code: bool) -> Preparation:
        """The library's own preparation of one half, "image" or "text", without the weights."""
        prepare: Preparation = self._imported().reference_preparation(models_dir, half, trust_remote_code)
        return prepare

    def bake(self, names: "Names", downloads: Path, made: Path) -> None:
        """Write this family's folders into `made`, from the hub by way of `downloads`; raises ConfigurationError."""
        self._imported().bake(names, downloads, made)

    def _imported(self) -> Any:
        for library in self.libraries:
            if importlib.util.find_spec(library) is None:
                raise ConfigurationError(
                    f"a model of the {self.name} family needs {library}, which is not installed; "
                    f"pip install -r {self.requirements}"
                )
        return importlib.import_module(self.module)


OPENAI_CLIP = Family(
    name="OpenAI CLIP",
    module="app.models.openai_clip",
    folders=("openai_clip", "openai_clip_processor"),
    weights=("openai_clip",),
    marker="config.json",
    libraries=("torch", "transformers"),
)
OPEN_CLIP = Family(
    name="OpenCLIP",
    module="app.models.open_clip",
    folders=("openclip",),
    weights=("openclip",),
    marker="config.json",
    libraries=("torch", "open_clip"),
    requirements="requirements/openclip.txt",
)
SIGLIP = Family(
    name="SigLIP",
    module="app.models.siglip",
    folders=("siglip",),
    weights=("siglip",),
    marker="config.json",
    libraries=("torch", "transformers"),
)
MODERN_VBERT = Family(
    name="ModernVBERT",
    module="app.models.modern_vbert",
    folders=("colpali_engine_model", "colpali_engine_processor"),
    weights=("colpali_engine_model",),
    marker="config.json",
    libraries=("torch", "colpali_engine"),
    requirements="requirements/colpali.txt",
)
SENTENCE_TRANSFORMERS = Family(
    name="sentence-transformers",
    module="app.models.sentence_transformers",
    folders=("clip", "text"),
    weights=("clip", "text"),
    marker="modules.json",
    libraries=("torch", "sentence_transformers"),
)

FAMILIES = (OPENAI_CLIP, OPEN_CLIP, SIGLIP, MODERN_VBERT, SENTENCE_TRANSFORMERS)


def find_family(models_dir: Path) -> Family:
    """The family whose folder is there; sentence-transformers where there is none."""
    return next((family for family in FAMILIES if (models_dir / family.folders[0]).is_dir()), FAMILIES[-1])
