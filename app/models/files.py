"""Looking at a model folder before it is loaded: is it there, whole, and what does it hold?"""

import hashlib
import json
from pathlib import Path
from typing import Any

from app.contract import ConfigurationError
from app.settings import Settings

HOW_TO_GET_A_MODEL = "set MODELS_DIR to a folder with a model (the demo: MODELS_DIR=demo/models)"
_LFS_POINTER = b"version https://git-lfs"


def trust_remote_code(settings: Settings) -> bool:
    """The file MODELS_DIR/trust_remote_code wins over the environment, as baked."""
    baked = settings.models_dir / "trust_remote_code"
    if baked.is_file():
        return baked.read_text().strip().lower() == "true"
    return settings.trust_remote_code


def check_folder(folder: Path) -> None:
    """Raises ConfigurationError unless the folder holds a whole sentence-transformers model."""
    if not folder.is_dir():
        raise ConfigurationError(f"there is no model folder {folder}; {HOW_TO_GET_A_MODEL}")
    if not (folder / "modules.json").is_file():
        raise ConfigurationError(
            f"{folder} is no sentence-transformers model (no modules.json); {HOW_TO_GET_A_MODEL}"
        )
    files = [path for path in folder.rglob("*") if path.is_file()]
    if not any(path.suffix in (".safetensors", ".bin") for path in files):
        raise ConfigurationError(f"{folder} holds no weights; {HOW_TO_GET_A_MODEL}")
    for path in files:
        _check_file(path)


def digest(folder: Path) -> str:
    """SHA-256 over the names and contents of a folder's files, without its texts (*.md)."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".md"):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{path.relative_to(folder)} {content}\n".encode())
    return whole.hexdigest()


def read_config(folder: Path) -> dict[str, Any]:
    """The model's own config.json, in the folder or in that of its first module."""
    for path in (folder / "config.json", *sorted(folder.glob("*/config.json"))):
        if path.is_file():
            config: dict[str, Any] = json.loads(path.read_text())
            return config
    return {}


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
