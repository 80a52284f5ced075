"""Looking at a model folder before it is loaded: is it there, whole, and what does it hold?"""

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.errors import ConfigurationError
from app.settings import Settings

if TYPE_CHECKING:
    from app.families.registry import Family

HOW_TO_GET_A_MODEL = "get a model with ./download.py, or serve the demo with MODELS_DIR=demo/models"
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
_LFS_POINTER = b"version https://git-lfs"


def trust_remote_code(settings: Settings) -> bool:
    """The file MODELS_DIR/trust_remote_code wins over the environment, as baked."""
    baked = settings.models_dir / "trust_remote_code"
    if baked.is_file():
        return baked.read_text().strip().lower() == "true"
    return settings.trust_remote_code


def check_model(models_dir: Path, family: "Family") -> None:
    """Raises ConfigurationError unless the folders of `family` are there, whole and readable."""
    try:
        for name in family.folders:
            _check_folder(models_dir / name, family if name in family.weights else None)
    except PermissionError as error:
        raise ConfigurationError(
            f"user {os.getuid()} may not read {error.filename}; let everyone read it (chmod -R a+rX, or in a "
            "Dockerfile COPY --chmod=755)"
        ) from error


def _check_folder(folder: Path, family: "Family | None") -> None:
    """`family` is given for a folder that must hold weights."""
    if not folder.is_dir():
        raise ConfigurationError(f"there is no model folder {folder}; {HOW_TO_GET_A_MODEL}")
    content = content_files(folder)
    if family is not None:
        if not (folder / family.marker).is_file():
            raise ConfigurationError(f"{folder} is no {family.name} model (no {family.marker}); {HOW_TO_GET_A_MODEL}")
        if not any(path.suffix in WEIGHTS for path in content):
            raise ConfigurationError(f"{folder} holds no weights; {HOW_TO_GET_A_MODEL}")
    for path in content:
        _check_file(path)


def digest(folder: Path) -> str:
    """SHA-256 over the names and contents of a folder's files, without its texts (*.md)."""
    whole = hashlib.sha256()
    for path in content_files(folder):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{path.relative_to(folder)} {content}\n".encode())
    return whole.hexdigest()


def content_files(folder: Path) -> list[Path]:
    """The files of a model folder that matter, in order: all but its texts (*.md)."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".md")


def read_config(folder: Path) -> dict[str, Any]:
    """The model's own config.json, in the folder or in that of its first module."""
    for path in (folder / "config.json", *sorted(folder.glob("*/config.json"))):
        if path.is_file():
            config: dict[str, Any] = json.loads(path.read_text())
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


def _check_file(path: Path) -> None:
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
