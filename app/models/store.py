"""The compiled form of a model on disk: where, whose, whole or not.

    <models>/compiled/<fingerprint>/   or the same below the cache folder
        manifest.json                  what it was made from and how items are prepared,
                                       or why the engine does not take this model
        image.xml image.bin text.xml text.bin tokenizer.json

A folder appears under its final name only when it is whole, by one rename, so a half-written one is
never loaded and two servers that compile at once do not harm each other.
"""

import fcntl
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.families.family import Family
from app.families.folders import content_files
from app.settings import Settings

# Of files above this size only a part is read: so many places, with so many bytes each.
_READ_WHOLE = 2**20
_SAMPLES = 1024
_SAMPLE_BYTES = 512
_INTERRUPTED = 3600  # seconds after which a folder that is being written counts as left behind


def store_folders(settings: Settings) -> Iterator[Path]:
    """Where a compiled model may be: beside the model, then in the cache folder."""
    yield settings.models_dir / "compiled"
    yield settings.cache_dir / "compiled"


def compiled_only(models_dir: Path) -> Path | None:
    """The compiled model of a folder that holds nothing else, as a baked image does; None if there is more."""
    folders = [path for path in models_dir.glob("*") if path.is_dir() and path.name != "compiled"]
    whole = [manifest.parent for manifest in models_dir.glob("compiled/*/manifest.json")]
    return whole[0] if len(whole) == 1 and not folders else None


def is_whole(folder: Path) -> bool:
    """Whether a compiled model was written to its end."""
    return (folder / "manifest.json").is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the compiled model in `folder` says of itself."""
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return manifest


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """One process at a time; the lock goes with the process that holds it."""
    with (place / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_writable(place: Path) -> bool:
    """Whether a compiled model can be kept in `place`, which is made if need be."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            return True
    except OSError:
        return False


@contextmanager
def being_written(place: Path, fingerprint: str) -> Iterator[Path]:
    """A new folder that becomes `place`/`fingerprint` when the block ends well, and goes away when it does not."""
    place.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".making-", dir=place))
    try:
        yield folder
        folder.chmod(0o755)  # mkdtemp's folder is its owner's alone; another user may serve it
        final = place / fingerprint
        try:
            folder.rename(final)
        except OSError:
            if not is_whole(final):  # else another server was first
                raise
        _remove_stale(place, fingerprint)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fingerprint(models_dir: Path, family: Family, version: str) -> str:
    """A name for the content of the model folders under one `version` of what is made from them.

    Of large files only a part is read: 1,024 places of it, beside its size. Weights that
    were trained further differ in nearly all of their bytes.
    """
    whole = hashlib.sha256(version.encode())
    for folder in family.folders:
        for path in content_files(models_dir / folder.name):
            size = path.stat().st_size
            whole.update(f"{path.relative_to(models_dir)} {size}\n".encode())
            with path.open("rb") as file:
                if size <= _READ_WHOLE:
                    whole.update(file.read())
                    continue
                for part in range(_SAMPLES):
                    file.seek(part * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
                    whole.update(file.read(_SAMPLE_BYTES))
    return whole.hexdigest()[:32]


def _remove_stale(place: Path, fingerprint: str) -> None:
    """What was made from other files or by another version, and what an interrupted process left."""
    for folder in place.iterdir():
        if not folder.is_dir() or folder.name == fingerprint:
            continue
        interrupted = folder.name.startswith(".making-") and time.time() - folder.stat().st_mtime > _INTERRUPTED
        if interrupted or (is_whole(folder) and not folder.name.startswith(".")):
            shutil.rmtree(folder, ignore_errors=True)
