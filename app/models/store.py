"""The compiled forms of models on disk: where, whose, whole or not.

    <models>/compiled/<form>/   or the same below the cache folder, which several models may share
        manifest.json           what it was made by, how items are prepared, and which tower no engine takes
        image.* text.*          the towers in the engine's own files
        tokenizer.json
        batches.json            what was measured on machines that served it; may be absent

A form's name tells the model's content, the engine, the precision, and the version of what wrote it. A folder
appears under its name only when it is whole, by one rename, and goes away by one rename: what is loaded is
never half, and servers that write, load and remove at once do not harm each other.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import Stopped
from app.families.family import Family
from app.families.folders import content_files
from app.settings import Settings

_log = logging.getLogger(__name__)

# Raise it when what is written here changes.
FORMAT = 9

# Of files above this size only a part is read: so many places, with so many bytes each.
_READ_WHOLE = 2**20
_SAMPLES = 1024
_SAMPLE_BYTES = 512
_UNUSED = 30 * 24 * 3600  # seconds after which another model's form in a shared folder is removed
_INTERRUPTED = 24 * 3600  # seconds after which a folder that is being written counts as left behind, without locks


@dataclass(frozen=True)
class Form:
    """One compiled form: of which content, by which engine, in which precision, written by which version."""

    content: str
    engine: str
    precision: str
    version: str

    @property
    def name(self) -> str:
        """The name of its folder: no path, time or machine decides it."""
        version = hashlib.sha256(f"{FORMAT} {self.version}".encode()).hexdigest()[:8]
        return "-".join((self.content, self.engine, self.precision, version))

    def replaces(self, other: str) -> bool:
        """Whether the form named `other` is the same of the same model, by another version."""
        return other != self.name and other.startswith(f"{self.content}-{self.engine}-{self.precision}-")


def store_folders(settings: Settings) -> Iterator[Path]:
    """Where a compiled form may be: beside the model, then in the cache folder."""
    yield settings.models_dir / "compiled"
    try:
        yield settings.cache_dir.expanduser() / "compiled"
    except RuntimeError:  # this user has no home
        _log.info("CACHE_DIR=%s has no place, for this user has no home", settings.cache_dir)


def compiled_only(models_dir: Path) -> list[Path]:
    """The compiled forms of a folder that holds no other model, as a baked image does; empty if there is one."""
    folders = (path.name for path in models_dir.glob("*") if path.is_dir())
    if any(name not in ("compiled", "lost+found") and not name.startswith(".") for name in folders):
        return []
    return sorted(path for path in models_dir.glob("compiled/[!.]*") if is_whole(path))


def is_whole(folder: Path) -> bool:
    """Whether a compiled form was written to its end."""
    return (folder / "manifest.json").is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the compiled form in `folder` says of itself."""
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return manifest


def write_manifest(folder: Path, form: Form, family: str, towers: dict[str, Any], meta: dict[str, Any]) -> None:
    """The last thing written: with it a compiled form is whole."""
    made_by = {"format": FORMAT, "engine": form.engine, "precision": form.precision, "version": form.version}
    text = json.dumps({**made_by, "family": family, "towers": towers, "meta": meta})
    (folder / "manifest.json").write_text(text, encoding="utf-8")


def is_writable(place: Path) -> bool:
    """Whether a compiled form can be kept in `place`, which is made if need be."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            return True
    except OSError:
        return False


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Nobody removes the form in `folder` meanwhile. Raises FileNotFoundError if it is not there any more."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise FileNotFoundError(folder) from error
    try:
        if not _try_lock(handle, fcntl.LOCK_SH) or not _is_at(handle, folder) or not is_whole(folder):
            raise FileNotFoundError(folder)
        yield
    finally:
        os.close(handle)


@contextmanager
def written_by_one(place: Path, form: Form, stop: threading.Event) -> Iterator[None]:
    """One process at a time writes this form; the lock goes with the process that holds it.

    Where the file system has no locks two may write: the first rename counts. Raises Stopped.
    """
    path = place / f".{form.name}.lock"
    with path.open("w", encoding="utf-8") as file:
        while not _try_lock(file.fileno(), fcntl.LOCK_EX):
            if stop.wait(0.1):
                raise Stopped("stopped while another server compiled the model")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def being_written(place: Path, form: Form) -> Iterator[Path]:
    """A new folder that becomes the form when the block ends well, and goes away when it does not."""
    folder = Path(tempfile.mkdtemp(prefix=".making-", dir=place))
    handle = os.open(folder, os.O_RDONLY)
    try:
        _try_lock(handle, fcntl.LOCK_EX)
        yield folder
        folder.chmod(0o755)  # mkdtemp's folder is its owner's alone; another user may serve it
        try:
            folder.rename(place / form.name)
        except OSError:
            if not is_whole(place / form.name):  # else another server was first
                raise
    finally:
        os.close(handle)
        shutil.rmtree(folder, ignore_errors=True)


def remove_stale(place: Path, form: Form, shared: bool) -> None:
    """What `form` replaces, and what interrupted processes left.

    In a folder of one model, also the forms of what the model was before; in a `shared` one, those of other
    models that were not loaded for a month.
    """
    for folder in place.iterdir():
        if not folder.is_dir() or folder.name == form.name:
            continue
        age = time.time() - _last_used(folder)
        if folder.name.startswith("."):
            stale = folder.name.startswith((".making-", ".removing-"))
        elif not is_whole(folder):
            stale = False  # not ours
        elif folder.name.startswith(f"{form.content}-"):
            stale = form.replaces(folder.name)
        else:
            stale = age > _UNUSED if shared else True
        if stale:
            _remove(folder, age)


def mark_used(folder: Path) -> None:
    """So that it is not removed as one that nobody loads."""
    try:
        os.utime(folder / "manifest.json")
    except OSError:
        _log.debug("%s cannot be marked", folder)


def fingerprint(models_dir: Path, family: Family) -> str:
    """A name for the content of the model folders: no path, time or machine decides it.

    Of large files only a part is read: 1,024 places of it, beside its size. Weights that
    were trained further differ in nearly all of their bytes.
    """
    whole = hashlib.sha256()
    for folder in family.folders:
        for path in content_files(models_dir / folder.name):
            size = path.stat().st_size
            whole.update(f"{path.relative_to(models_dir).as_posix()} {size}\n".encode(errors="surrogateescape"))
            with path.open("rb") as file:
                if size <= _READ_WHOLE:
                    whole.update(file.read())
                    continue
                for part in range(_SAMPLES):
                    file.seek(part * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
                    whole.update(file.read(_SAMPLE_BYTES))
    return whole.hexdigest()[:24]


def _last_used(folder: Path) -> float:
    for path in (folder / "manifest.json", folder):
        try:
            return path.stat().st_mtime
        except OSError:
            continue
    return time.time()


def _remove(folder: Path, age: float) -> None:
    """Remove a folder that nobody uses; where there are no locks only what is old tells that."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    gone = folder.with_name(f".removing-{os.urandom(8).hex()}")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder.rename(gone)
    except BlockingIOError:
        return
    except OSError:
        if age < _INTERRUPTED:
            return
        gone = folder
    finally:
        os.close(handle)
    shutil.rmtree(gone, ignore_errors=True)


def _is_at(handle: int, folder: Path) -> bool:
    """Whether the open folder lies there still: it may have been removed, and another written in its place."""
    try:
        return os.path.samestat(os.fstat(handle), folder.stat())
    except OSError:
        return False


def _try_lock(handle: int, kind: int) -> bool:
    """Whether the lock is held now, or the file system has none; False while another process holds it."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        _log.info("no lock, for the file system has none: %s", error)
    return True
