"""Looking at a model folder before it is loaded: is it there, whole, and what does it hold?"""

import hashlib
import json
import os
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.errors import ConfigurationError
from app.families.registry import Family, ModelFolder
from app.settings import Settings
from app.towers import TorchModel

HOW_TO_GET_A_MODEL = "get a model with ./download.py, or serve the demo with MODELS_DIR=demo/models"
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
_OTHER_WEIGHTS = {".onnx": "ONNX", ".gguf": "GGUF", ".h5": "TensorFlow's", ".msgpack": "Flax's"}
_LFS_POINTER = b"version https://git-lfs"
# Larger files are sampled by fingerprint().
_MAX_READ_WHOLE = 2**20
_SAMPLES = 1024
_SAMPLE_BYTES = 512


def load_torch_model(settings: Settings, family: Family) -> TorchModel:
    """The model of MODELS_DIR as its family loads it, see Family.load().

    The file MODELS_DIR/trust_remote_code wins over the environment, as baked.
    """
    family.require_libraries()
    baked, trust = settings.models_dir / "trust_remote_code", settings.trust_remote_code
    if baked.is_file():
        trust = baked.read_text(encoding="utf-8").strip().lower() == "true"
    return family.load(settings.models_dir, trust)


def check_model(models_dir: Path, family: Family) -> None:
    """Raises ConfigurationError unless the folders of `family` are there, with weights, and readable."""
    try:
        for folder in family.folders:
            _check_folder(models_dir, folder, family.name)
    except PermissionError as error:
        raise ConfigurationError(
            f"user {os.getuid()} may not read {error.filename}; let everyone read it (chmod -R a+rX, or in a "
            "Dockerfile COPY --chmod=755)"
        ) from error


def _check_folder(models_dir: Path, folder: ModelFolder, family_name: str) -> None:
    path = models_dir / folder.name
    if not path.is_dir():
        raise ConfigurationError(f"there is no model folder {path}; {HOW_TO_GET_A_MODEL}")
    if not folder.is_in(models_dir):
        raise ConfigurationError(
            f"{path} is not a {family_name} model (no {' or '.join(folder.markers)}); {HOW_TO_GET_A_MODEL}"
        )
    content = content_files(path)
    if folder.has_weights:
        require_weights(str(path), path, map(str, content))
    for file in content:
        with file.open("rb") as opened:
            if opened.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise ConfigurationError(f"{file} is a Git LFS pointer, not the file itself; run git lfs pull")


def require_weights(name: str, folder: Path, files: Iterable[str]) -> None:
    """Raises ConfigurationError that says what to take instead, unless the model `name` has weights that are read.

    `files` are those of the repository, of which some may not have been downloaded to `folder`.
    """
    files = list(files)
    method = (read_config(folder).get("quantization_config") or {}).get("quant_method")
    if method:
        raise ConfigurationError(
            f"{name} is quantised ({method}), which is not supported: take the model it was made from, and make that "
            "small with PRECISION=int8"
        )
    if any(file.endswith(WEIGHTS) and not Path(file).name.startswith("adapter_") for file in files):
        return
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path", "another model")
        raise ConfigurationError(
            f"{name} is a LoRA adapter of {base}, without its weights: take {base}, or merge both "
            "(merge_and_unload() of peft), save the result and take that folder"
        )
    if others := {_OTHER_WEIGHTS[suffix] for file in files if (suffix := Path(file).suffix) in _OTHER_WEIGHTS}:
        raise ConfigurationError(
            f"{name} has its weights as {', '.join(sorted(others))} only, which is not supported: take the model it "
            "was made from, with weights as safetensors"
        )
    raise ConfigurationError(f"{name} holds no weights ({', '.join(WEIGHTS)}); take a repository or folder that does")


def fingerprint(*folders: Path, below: Path) -> str:
    """A name for the content of model folders: it depends on no path above `below`, no time and no machine.

    A large file counts with its size and 1,024 samples: further training changes nearly all bytes of the weights.
    """
    whole = hashlib.sha256()
    for path in (path for folder in folders for path in content_files(folder)):
        size = path.stat().st_size
        whole.update(f"{path.relative_to(below).as_posix()} {size}\n".encode(errors="surrogateescape"))
        with path.open("rb") as file:
            if size <= _MAX_READ_WHOLE:
                whole.update(file.read())
                continue
            for part in range(_SAMPLES):
                file.seek(part * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
                whole.update(file.read(_SAMPLE_BYTES))
    return whole.hexdigest()[:24]


def content_files(folder: Path) -> list[Path]:
    """The files of a model folder that matter, in order: all but texts (*.md) and hidden ones. Links are followed."""
    files: list[Path] = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(parent, name) for name in names if not name.startswith(".") and not name.endswith(".md")]
    return sorted(path for path in files if path.is_file())


def read_config(folder: Path) -> dict[str, Any]:
    """The model's own config.json, in the folder or in that of its first module."""
    for path in (folder / "config.json", *sorted(folder.glob("*/config.json"))):
        if path.is_file():
            config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return config
    return {}


def with_hub_cache(folder: Path, marker: str) -> Path:
    """The folder if it holds a `marker`, else that of the latest model in a hub cache below it, if there is one."""
    snapshots = sorted(folder.glob("models--*/snapshots/*"), key=os.path.getmtime)
    return folder if any(folder.glob(marker)) or not snapshots else snapshots[-1]


@contextmanager
def loading(folder: Path) -> Iterator[None]:
    """Turns whatever a library raises while it loads `folder` into a ConfigurationError that says what to do."""
    try:
        yield
    except ConfigurationError:
        raise
    except Exception as error:
        said = textwrap.shorten(str(error) or type(error).__name__, 500)
        raise ConfigurationError(
            f"cannot load the model in {folder}: {said}; copy or bake the model again, or choose another"
        ) from error
