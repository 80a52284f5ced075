"""Keeps the compiled forms of models on disk.

    <models>/compiled/<form>/   or the same below the cache folder, which several models may share
        manifest.json           what it was made by, how items are prepared, and which tower no engine takes
        image.* text.*          the towers in the engine's own files
        tokenizer.json

The name of a form holds the model's fingerprint, the precision, and the version that wrote it. One rename makes a
folder appear under its name when it is complete, and one rename removes it, so nobody finds half a form.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import Stopped
from app.settings import Settings

_log = logging.getLogger(__name__)

# Raise it when what is written here changes.
FORMAT = 9


@dataclass(frozen=True)
class Form:
    """One compiled form: of which content, in which precision, written by which version of OpenVINO."""

    content: str
    precision: str
    version: str

    @property
    def name(self) -> str:
        """The name of its folder: no path, time or machine decides it."""
        version = hashlib.sha256(f"{FORMAT} {self.version}".encode()).hexdigest()[:8]
        return f"{self.content}-openvino-{self.precision}-{version}"


def store_folders(settings: Settings) -> Iterator[Path]:
    """Where a compiled form may be: beside the model, then in the cache folder."""
    yield settings.models_dir / "compiled"
    try:
        yield settings.cache_dir.expanduser() / "compiled"
    except RuntimeError:  # this user has no home
        _log.info("CACHE_DIR=%s cannot be used, since this user has no home folder", settings.cache_dir)


def compiled_only(models_dir: Path) -> Path | None:
    """The compiled form in a folder that holds no other model, as in a baked image; None if there is none."""
    folders = {path.name for path in models_dir.glob("[!.]*") if path.is_dir()}
    if folders - {"compiled", "lost+found"}:
        return None
    return next(filter(is_whole, models_dir.glob("compiled/[!.]*")), None)


def is_whole(folder: Path) -> bool:
    """Whether a compiled form was written to its end."""
    return os.path.isfile(folder / "manifest.json")  # no error where that may not be looked at


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the compiled form in `folder` says of itself."""
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return manifest


def write_manifest(folder: Path, form: Form, family: str, towers: dict[str, Any], meta: dict[str, Any]) -> None:
    """The last thing written: with it a compiled form is whole."""
    made_by = {"format": FORMAT, "engine": "openvino", "precision": form.precision, "version": form.version}
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
def one_at_a_time(folder: Path, stop: threading.Event) -> Iterator[bool]:
    """One process at a time writes into `folder`; the lock goes with the process that holds it. Raises Stopped.

    Gives False where the file system has no locks: then nobody waits.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield _lock(handle, stop)
    finally:
        os.close(handle)


def _lock(handle: int, stop: threading.Event) -> bool:
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if stop.wait(0.1):
                raise Stopped("stopped while another process prepared the model") from None
        except OSError as error:
            _log.info("the file system has no locks; going on without: %s", error)
            return False


@contextmanager
def being_written(place: Path, form: Form) -> Iterator[Path]:
    """A new folder that becomes the form when the block ends well, and goes away when it does not."""
    folder = Path(tempfile.mkdtemp(prefix=".making-", dir=place))
    try:
        yield folder
        folder.chmod(0o755)  # mkdtemp's folder is its owner's alone; another user may serve it
        if not is_whole(place / form.name):  # else another server was first
            folder.rename(place / form.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_stale(place: Path, form: Form, shared: bool) -> None:
    """Remove what `form` replaces, and what interrupted processes left; where nobody else writes (one_at_a_time).

    That is the same by another version, and in a folder that is not `shared` by models, what the model was before.
    """
    for folder in place.iterdir():
        left_behind = folder.name.startswith((".making-", ".removing-"))
        of_another_model = not folder.name.startswith(f"{form.content}-")
        by_another_version = folder.name.rpartition("-")[0] == form.name.rpartition("-")[0]
        replaced = folder.name != form.name and (by_another_version or (of_another_model and not shared))
        if left_behind or (replaced and is_whole(folder)):
            with suppress(OSError):  # it may be another user's
                gone = folder.rename(place / f".removing-{os.urandom(8).hex()}")
                shutil.rmtree(gone, ignore_errors=True)
