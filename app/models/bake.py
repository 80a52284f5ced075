"""Baking: a model from the hub into the folders that the server reads, by hand or at a start that names it."""

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from app.engines import OPENVINO, choose_engine
from app.errors import CompilingFailed, ConfigurationError
from app.families.registry import FAMILIES, Family, named_family, variables
from app.models.child import run_in_child
from app.models.load import load_model
from app.models.store import compiled_only, is_writable, one_at_a_time
from app.settings import Settings
from app.towers import LoadedModel

_log = logging.getLogger(__name__)

_RECORD = "baked.json"
_DOWNLOADS = ".downloading"
_PROGRESS_SECONDS = 10.0


def load_named_model(settings: Settings, stop: threading.Event) -> LoadedModel:
    """The model of MODELS_DIR, as load_model() loads it. One that the environment names is baked first, if need be.

    Raises ConfigurationError, also where the folder holds another model than the one named, and Stopped.
    """
    names = {name: os.environ[name] for name in variables() if os.environ.get(name)}
    # The others say how a model is baked, not which.
    if any(name.endswith("_MODEL_NAME") for name in names):
        _bake_if_absent(settings, names, stop)
    return load_model(settings, stop)


def _bake_if_absent(settings: Settings, names: Mapping[str, str], stop: threading.Event) -> None:
    """In a process of its own, for a download can only be stopped with its process."""
    models_dir, family = settings.models_dir, named_family(names)
    own = _own_names(family, names)
    if before := _read_record(models_dir):
        if (before["family"], before["names"]) == (family.name, own):
            return
        raise ConfigurationError(
            f"{models_dir} holds the model of {_in_words(before['names'])}, but the environment names "
            f"{_in_words(own)}; set MODELS_DIR to a folder of its own for that model, or unset its name to serve "
            "what is there"
        )
    if _holds_a_model(models_dir):
        # The old container took no notice of these variables at run time.
        _log.warning("%s holds a model that was not baked by name: %s is not needed", models_dir, _in_words(own))
        return
    given = {"models_dir", "threads", "precision", "trust_remote_code"}
    task = {
        "folder": str(models_dir),
        "settings": settings.model_dump(mode="json", include=given),
        "names": own,
        "compile_towers": choose_engine(settings) is OPENVINO,
    }
    try:
        run_in_child("app.models.bake", "baking", task, stop)
    except CompilingFailed as error:
        raise ConfigurationError(str(error)) from error


def _holds_a_model(models_dir: Path) -> bool:
    folders = {folder.name for family in FAMILIES for folder in family.folders} | {"compiled"}
    return any((models_dir / name).exists() for name in folders)


def _in_words(names: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in names.items())


def bake(settings: Settings, names: Mapping[str, str], *, compile_towers: bool) -> None:
    """Fill MODELS_DIR with the model that `names` ask for, by the names of the environment variables.

    The model is loaded once, as the server does it, before it is moved there. What was interrupted goes on at the
    next call. Raises ConfigurationError that names the way out, also where the folder holds another model.
    """
    models_dir, trust = settings.models_dir, settings.trust_remote_code
    family = named_family(names)
    names = _own_names(family, names)
    wanted = {"family": family.name, "names": names, "trust_remote_code": trust}
    if not is_writable(models_dir):
        raise ConfigurationError(f"MODELS_DIR={models_dir} is not writable; bake into a folder that is")
    with one_at_a_time(models_dir, threading.Event()):
        if _read_record(models_dir) == wanted:
            print(f"{models_dir} holds this {family.name} model already")
            _verify(settings, compile_towers)
            return
        if _holds_a_model(models_dir):
            raise ConfigurationError(
                f"{models_dir} holds another model, or was baked with other settings; set MODELS_DIR to a folder of "
                "its own for this one, or remove all that is in there"
            )
        family.require_libraries()
        downloads, baked = models_dir / _DOWNLOADS, models_dir / _DOWNLOADS / "baked"
        shutil.rmtree(baked, ignore_errors=True)
        baked.mkdir(parents=True)
        family.bake(names, trust, downloads, baked)
        (baked / "trust_remote_code").write_text(str(trust).lower(), encoding="utf-8")
        for path in baked.rglob("*"):
            path.chmod(path.stat().st_mode | 0o444)  # weights are saved for their owner alone
        _verify(settings.model_copy(update={"models_dir": baked}), compile_towers)
        for path in baked.iterdir():
            path.rename(models_dir / path.name)
        record = {"wanted": wanted, "folders": [folder.name for folder in family.folders]}
        (models_dir / _RECORD).write_text(json.dumps(record), encoding="utf-8")
        shutil.rmtree(downloads, ignore_errors=True)


def _own_names(family: Family, names: Mapping[str, str]) -> dict[str, str]:
    return {name: names[name] for name in family.variables if name in names}


def _read_record(models_dir: Path) -> dict[str, Any] | None:
    """What was baked here before, and is there still: family, names and trust; None if nothing was."""
    try:
        record = json.loads((models_dir / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_there = all((models_dir / name).is_dir() for name in record["folders"]) or compiled_only(models_dir)
    wanted: dict[str, Any] = record["wanted"]
    return wanted if is_there else None


def _verify(settings: Settings, compile_towers: bool) -> None:
    """Load what was written as the server does, which embeds one text and one picture."""
    models_dir = settings.models_dir
    precision = models_dir / "precision"
    if settings.precision is None:
        precision.unlink(missing_ok=True)
    else:
        precision.write_text(settings.precision, encoding="utf-8")
    print("compiling and trying the model" if compile_towers else "trying the model", flush=True)
    engine = {"engine": "auto" if compile_towers else "torch", "enable_cuda": False}
    model = load_model(settings.model_copy(update=engine), served_elsewhere=True)
    form = ", compiled" if any(models_dir.glob("compiled/*/manifest.json")) else ""
    print(f"{model.title}, vectors of width {model.width}{form}")


def _print_progress(downloads: Path) -> None:
    """How much has been downloaded, from time to time, for as long as it grows."""
    before = 0
    while True:
        time.sleep(_PROGRESS_SECONDS)
        with suppress(OSError):  # files are renamed meanwhile
            size = sum(path.stat().st_size for path in downloads.rglob("*") if path.is_file())
            if size > before:
                print(f"downloaded {size / 1e6:.1f} MB so far")
            before = size


def work(task: Mapping[str, Any]) -> None:
    """In the process that _bake_if_absent() starts."""
    settings = Settings(**task["settings"])
    threading.Thread(target=_print_progress, args=(settings.models_dir / _DOWNLOADS,), daemon=True).start()
    bake(settings, task["names"], compile_towers=task["compile_towers"])
