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
from app.families.family import Family, ModelFolder
from app.settings import Settings

HOW_TO_GET_A_MODEL = "get a model with ./download.py, or serve the demo with MODELS_DIR=demo/models"
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
_OTHER_WEIGHTS = {
    ".onnx": "ONNX",
    ".gguf": "GGUF",
    ".h5": "TensorFlow's",
    ".msgpack": "Flax's",
    ".tflite": "TFLite",
    ".mlpackage": "Core ML",
}
BEING_REPLACED = ".being-replaced"
"""A file in MODELS_DIR while folders are replaced; what it lies beside may be of two models."""
_LFS_POINTER = b"version https://git-lfs"
# Larger files are sampled by fingerprint().
_MAX_READ_WHOLE = 2**20
_SAMPLES = 1024
_SAMPLE_BYTES = 512


def trust_remote_code(settings: Settings) -> bool:
    """The file MODELS_DIR/trust_remote_code wins over the environment, as baked."""
    baked = settings.models_dir / "trust_remote_code"
    if baked.is_file():
        return baked.read_text(encoding="utf-8").strip().lower() == "true"
    return settings.trust_remote_code


def check_model(models_dir: Path, family: Family) -> None:
    """Raises ConfigurationError unless the folders of `family` are there, whole and readable."""
    if (models_dir / BEING_REPLACED).exists():
        raise ConfigurationError(
            f"baking into {models_dir} was interrupted while folders were replaced; run ./download.py again"
        )
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
        check_file(file)


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
    if others := sorted({kind for suffix, kind in _OTHER_WEIGHTS.items() if any(f.endswith(suffix) for f in files)}):
        raise ConfigurationError(
            f"{name} has its weights as {', '.join(others)} only, which is not supported: take the model it was "
            "made from, with weights as safetensors"
        )
    raise ConfigurationError(f"{name} holds no weights ({', '.join(WEIGHTS)}); take a repository or folder that does")


def digest(folder: Path) -> str:
    """SHA-256 over the names and contents of a folder's files, without its texts (*.md)."""
    whole = hashlib.sha256()
    for path in content_files(folder):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{path.relative_to(folder)} {content}\n".encode())
    return whole.hexdigest()


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
    """The files of a model folder that matter, in order: all but texts (*.md) and hidden ones.

    Links are followed, each folder once.
    """
    files: list[Path] = []
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real not in seen:
            files += [Path(parent, name) for name in names if not name.startswith(".") and not name.endswith(".md")]
        seen.add(real)
    return sorted(path for path in files if path.is_file())


def read_config(folder: Path) -> dict[str, Any]:
    """The model's own config.json, in the folder or in that of its first module."""
    for path in (folder / "config.json", *sorted(folder.glob("*/config.json"))):
        if path.is_file():
            config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return config
    return {}


def hub_snapshot(cache: Path) -> Path:
    """The folder of the one model in a hub cache (models--OWNER--NAME/snapshots/COMMIT).

    Raises ConfigurationError unless there is exactly one.
    """
    snapshots = [path for path in cache.glob("models--*/snapshots/*") if path.is_dir()]
    if len(snapshots) != 1:
        raise ConfigurationError(
            f"{cache} holds {len(snapshots)} models of a hub cache instead of one; {HOW_TO_GET_A_MODEL}"
        )
    return snapshots[0]


def check_file(path: Path) -> None:
    """Raises ConfigurationError if a file of a model is damaged as far as that can be told quickly."""
    with path.open("rb") as file:
        head = file.read(len(_LFS_POINTER))
    if head == _LFS_POINTER:
        raise ConfigurationError(f"{path} is a Git LFS pointer, not the file itself; run git lfs pull")
    if path.suffix == ".safetensors" and not _is_whole_safetensors(path):
        raise ConfigurationError(f"{path} is cut off or damaged; download or copy the model again")


def _is_whole_safetensors(path: Path) -> bool:
    """Layout: 8 bytes of header length (little endian), a JSON header with byte offsets, the data."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= size - 8:
            return False
        try:
            header = json.loads(file.read(length))
        except ValueError:
            return False
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    return size == 8 + length + max(ends, default=0)


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


@contextmanager
def without_damaged_files(source: Path) -> Iterator[None]:
    """If the block fails, removes the damaged files from the download `source`, so that the next call fetches them.

    Whole files stay, since the error may be in the settings.
    """
    try:
        yield
    except ConfigurationError:
        for path in source.rglob("*"):
            if path.is_file() and (source / ".cache" / "huggingface").is_dir():  # ours, not a folder of the user's
                try:
                    check_file(path)
                except ConfigurationError:
                    path.unlink()
        raise
