"""The model families: their folders, their own variables, and the module of each that bakes and loads."""

import importlib
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class Family:
    """`module` has bake() and load() as below. It is imported only then: what serves a compiled model has no torch.

    `variables` are the environment variables that name a model of it in baking, with their meaning; the first one has
    to be set. `libraries` are what loading needs, and `requirements` is the file that installs them.
    """

    name: str
    module: str
    folders: tuple[ModelFolder, ...]
    variables: Mapping[str, str]
    libraries: tuple[str, ...]
    requirements: str = "requirements.txt"

    def bake(self, names: Mapping[str, str], trust_remote_code: bool, downloads: Path, target: Path) -> None:
        """Write this family's folders into `target`, from the hub by way of `downloads`.

        `names` are the variables that are set. Raises ConfigurationError that says what to do.
        """
        importlib.import_module(self.module).bake(names, trust_remote_code, downloads, target)

    def load(self, models_dir: Path, trust_remote_code: bool) -> TorchModel:
        """Load the model on the CPU in float32, without network.

        Raises ConfigurationError that names the folder and says how to get a model.
        """
        # Libraries that use the hub read it at their import: a baked model must not be looked up there.
        os.environ["HF_HUB_OFFLINE"] = "1"
        model: TorchModel = importlib.import_module(self.module).load(models_dir, trust_remote_code)
        return model

    def require_libraries(self) -> None:
        """Raises ConfigurationError with the command that installs what is needed and is not there."""
        for library in self.libraries:
            if importlib.util.find_spec(library) is None:
                raise ConfigurationError(
                    f"a model of the {self.name} family needs {library}, which is not installed; "
                    f"pip install -r {self.requirements}"
                )


MODERN_VBERT = Family(
    "ModernVBERT",
    "app.families.modern_vbert",
    (
        ModelFolder("colpali_engine_model"),
        ModelFolder(
            "colpali_engine_processor",
            ("tokenizer_config.json", "models--*/snapshots/*/tokenizer_config.json"),
            has_weights=False,
        ),
    ),
    {"COLPALI_ENGINE_MODEL_NAME": "ModernVBERT model that download.py bakes"},
    ("torch", "colpali_engine"),
    "requirements/colpali.txt",
)
SIGLIP = Family(
    "SigLIP",
    "app.families.siglip",
    (ModelFolder("siglip"),),
    {"SIGLIP_MODEL_NAME": "SigLIP model that download.py bakes"},
    ("torch", "transformers"),
)
OPENCLIP = Family(
    "OpenCLIP",
    "app.families.openclip",
    (ModelFolder("openclip"),),
    {
        "OPEN_CLIP_MODEL_NAME": "OpenCLIP model that download.py bakes; also hf-hub:OWNER/MODEL",
        "OPEN_CLIP_PRETRAINED": "its weights, by open_clip's name",
    },
    ("torch", "open_clip"),
    "requirements/openclip.txt",
)
_TWO_NAMES = {
    "CLIP_MODEL_NAME": "what download.py bakes for pictures",
    "TEXT_MODEL_NAME": "what download.py bakes for texts",
}
OPENAI_CLIP = Family(
    "OpenAI CLIP",
    "app.families.openai_clip",
    (
        ModelFolder("openai_clip"),
        ModelFolder(
            "openai_clip_processor",
            ("tokenizer_config.json", "preprocessor_config.json", "processor_config.json"),
            has_weights=False,
        ),
    ),
    {**_TWO_NAMES, "CLIP_MODEL_TYPE": "openai: bake CLIP_MODEL_NAME as an OpenAI CLIP, whatever its name"},
    ("torch", "transformers"),
)
SENTENCE_TRANSFORMERS = Family(
    "sentence-transformers",
    "app.families.sentence_transformer_pair",
    (ModelFolder("clip", ("modules.json",)), ModelFolder("text", ("modules.json",))),
    _TWO_NAMES,
    ("torch", "sentence_transformers"),
)
FAMILIES = (MODERN_VBERT, SIGLIP, OPENCLIP, OPENAI_CLIP, SENTENCE_TRANSFORMERS)


def find_family(models_dir: Path) -> Family:
    """The family whose folders are all there, with their marker files.

    If none is complete, the family of which most is there, so that an error can name what is missing. Raises
    ConfigurationError if two are complete.
    """
    complete = [family for family in FAMILIES if all(folder.is_in(models_dir) for folder in family.folders)]
    if len(complete) > 1:
        first, second = (
            f"{family.name} ({', '.join(folder.name for folder in family.folders)})" for family in complete[:2]
        )
        raise ConfigurationError(
            f"{models_dir} holds two models, {first} and {second}; remove the folders of one of them"
        )
    if complete:
        return complete[0]

    def present(family: Family) -> tuple[int, int]:
        marked = sum(folder.is_in(models_dir) for folder in family.folders)
        return marked, sum(any((models_dir / folder.name).glob("*")) for folder in family.folders)

    return max(reversed(FAMILIES), key=present)


def variables() -> dict[str, str]:
    """The variables of baking of all families, with their meaning."""
    return {name: meaning for family in FAMILIES for name, meaning in family.variables.items()}


def named_family(names: Mapping[str, str]) -> Family:
    """The family that `names`, the variables that are set, ask for.

    Raises ConfigurationError if they ask for none, or something is missing or does not fit.
    """
    for family in FAMILIES:
        if next(iter(family.variables)) in names.keys() - _TWO_NAMES:
            return family
    clip, text = (names.get(name, "") for name in _TWO_NAMES)
    is_openai = names.get("CLIP_MODEL_TYPE", "").lower() == "openai"
    if clip.startswith(("openai/", "facebook/metaclip")) or (clip and is_openai):
        if clip != text:
            raise ConfigurationError(f"an OpenAI CLIP embeds texts and pictures: set TEXT_MODEL_NAME to {clip} too")
        return OPENAI_CLIP
    if missing := [name for name in _TWO_NAMES if not names.get(name)]:
        raise ConfigurationError(
            f"{' and '.join(missing)} is not set; set CLIP_MODEL_NAME and TEXT_MODEL_NAME, for "
            "example both to clip-ViT-B-32, or see --help"
        )
    return SENTENCE_TRANSFORMERS
