"""Finds the compiled form of a model, or has it made by a process of its own."""

import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from app.engines import OPENVINO, chosen_precision
from app.errors import ConfigurationError, DiskFull
from app.families.family import Family
from app.families.folders import check_model, fingerprint, trust_remote_code
from app.families.registry import find_family
from app.models.child import run_in_child
from app.models.store import (
    Form,
    being_written,
    in_use,
    is_whole,
    is_writable,
    one_at_a_time,
    remove_stale,
    store_folders,
)
from app.settings import Settings

_log = logging.getLogger(__name__)


def form_of(settings: Settings, family: Family) -> Form:
    """The compiled form that serves the model of these settings."""
    folders = (settings.models_dir / folder.name for folder in family.folders)
    content = fingerprint(*folders, below=settings.models_dir)
    return Form(content, chosen_precision(settings), OPENVINO.version())


@contextmanager
def compiled_form(settings: Settings, family: Family, stop: threading.Event) -> Iterator[Path]:
    """The folder of the compiled form, which is made if need be, and which nobody removes meanwhile.

    Raises CompilingFailed, ConfigurationError if the model is wrong, and Stopped.
    """
    form = form_of(settings, family)
    with ExitStack() as stack:
        yield _open_form(settings, form, stop, stack)


def _open_form(settings: Settings, form: Form, stop: threading.Event, stack: ExitStack) -> Path:
    """The form that is kept already, else one made in the first place that has room."""
    for place in store_folders(settings):
        with suppress(FileNotFoundError):
            return stack.enter_context(in_use(place / form.name))
    failure: DiskFull | None = None
    for place in filter(is_writable, store_folders(settings)):
        try:
            _compile_into(place, form, settings, stop)
        except DiskFull as error:
            _log.warning("%s: %s", place, error)
            failure = error
        else:
            return stack.enter_context(in_use(place / form.name))
    if failure is not None:
        raise failure
    _log.warning("no folder to keep the compiled model in; set CACHE_DIR to a writable folder")
    temporary = Path(stack.enter_context(TemporaryDirectory()))
    _compile_into(temporary, form, settings, stop)
    return temporary / form.name


def compile_model(settings: Settings, place: Path, stop: threading.Event | None = None) -> Path:
    """Compile the model of MODELS_DIR in PRECISION into a folder below `place`, unless it is there already.

    Returns that folder. Raises ConfigurationError and CompilingFailed, whose messages are for the user.
    """
    family = find_family(settings.models_dir)
    check_model(settings.models_dir, family)
    if settings.engine == "torch":
        raise ConfigurationError("ENGINE=torch computes a model as it is; there is nothing to compile")
    if missing := OPENVINO.missing():
        raise ConfigurationError(f"the model cannot be compiled: {missing}")
    if not is_writable(place):
        raise ConfigurationError(f"{place} is not a writable folder")
    form = form_of(settings, family)
    _compile_into(place, form, settings, stop or threading.Event())
    return place / form.name


def _compile_into(place: Path, form: Form, settings: Settings, stop: threading.Event) -> None:
    with one_at_a_time(place, stop):
        if is_whole(place / form.name):
            return  # another process was first
        _log.info("compiling the model in %s into %s; this happens once", form.precision, place)
        with being_written(place, form) as folder:
            own = {"models_dir": str(settings.models_dir), "threads": settings.threads}
            own["trust_remote_code"] = trust_remote_code(settings)
            task = {"settings": own, "form": asdict(form), "folder": str(folder)}
            run_in_child("app.models.compiler", "compiling", task, stop)
        remove_stale(place, form, shared=place.parent != settings.models_dir)
