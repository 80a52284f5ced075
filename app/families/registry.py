"""The model families, in the order in which a model folder is asked what it holds."""

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.errors import ConfigurationError
from app.towers import Processor, TorchModel

if TYPE_CHECKING:
    from app.families.names import Names


@dataclass(frozen=True)
class Family:
    """A family of models: the folders below MODELS_DIR that hold one, and the module that knows it.

    `marker` is a file that must be in each of the folders with `weights`.
    The module gives load(), library_processor() and bake(); it needs `libraries`, which the file
    `requirements` installs.
    """

    name: str
    module: str
    folders: tuple[str, ...]
    weights: tuple[str, ...]
    marker: str
    libraries: tuple[str, ...]
    requirements: str = "requirements.txt"

    def load(self, models_dir: Path, trust_remote_code: bool) -> "TorchModel":
        """Load the model on the CPU in float32; raises ConfigurationError."""
        torch_model: TorchModel = self._imported().load(models_dir, trust_remote_code)
        return torch_model

    def library_processor(self, models_dir: Path, tower: str, trust_remote_code: bool) -> Processor:
        """The library's own preparation of one tower, "image" or "text", without the weights."""
        prepare: Processor = self._imported().library_processor(models_dir, tower, trust_remote_code)
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
    module="app.families.openai_clip",
    folders=("openai_clip", "openai_clip_processor"),
    weights=("openai_clip",),
    marker="config.json",
    libraries=("torch", "transformers"),
)
OPEN_CLIP = Family(
    name="OpenCLIP",
    module="app.families.openclip",
    folders=("openclip",),
    weights=("openclip",),
    marker="config.json",
    libraries=("torch", "open_clip"),
    requirements="requirements/openclip.txt",
)
SIGLIP = Family(
    name="SigLIP",
    module="app.families.siglip",
    folders=("siglip",),
    weights=("siglip",),
    marker="config.json",
    libraries=("torch", "transformers"),
)
MODERN_VBERT = Family(
    name="ModernVBERT",
    module="app.families.modern_vbert",
    folders=("colpali_engine_model", "colpali_engine_processor"),
    weights=("colpali_engine_model",),
    marker="config.json",
    libraries=("torch", "colpali_engine"),
    requirements="requirements/colpali.txt",
)
SENTENCE_TRANSFORMERS = Family(
    name="sentence-transformers",
    module="app.families.sentence_transformer_pair",
    folders=("clip", "text"),
    weights=("clip", "text"),
    marker="modules.json",
    libraries=("torch", "sentence_transformers"),
)

FAMILIES = (OPENAI_CLIP, OPEN_CLIP, SIGLIP, MODERN_VBERT, SENTENCE_TRANSFORMERS)


def find_family(models_dir: Path) -> Family:
    """The family whose folder is there; sentence-transformers where there is none."""
    return next((family for family in FAMILIES if (models_dir / family.folders[0]).is_dir()), FAMILIES[-1])
