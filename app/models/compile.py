"""Finds the compiled form of a model, or has it made by a process of its own."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from app.engines import FileEngine
from app.errors import CompilingFailed, ConfigurationError, Stopped
from app.families.family import Family
from app.families.folders import check_model, trust_remote_code
from app.families.registry import find_family
from app.models.engine import chosen_engine, chosen_precision
from app.models.store import (
    Form,
    being_written,
    fingerprint,
    in_use,
    is_whole,
    is_writable,
    mark_used,
    remove_stale,
    store_folders,
    written_by_one,
)
from app.settings import Settings

_log = logging.getLogger(__name__)

_LONGEST = 3600  # seconds
_ROOT = Path(__file__).resolve().parents[2]


class _NoSpace(CompilingFailed):
    """It may succeed in another folder."""


def form_of(settings: Settings, family: Family, engine: FileEngine) -> Form:
    """The compiled form that serves the model of these settings."""
    content = fingerprint(settings.models_dir, family)
    return Form(content, engine.name, chosen_precision(settings), engine.version())


@contextmanager
def compiled_form(settings: Settings, family: Family, engine: FileEngine, stop: threading.Event) -> Iterator[Path]:
    """The folder of the compiled form, which is made if need be, and which nobody removes meanwhile.

    Raises CompilingFailed, ConfigurationError if the model is wrong, and Stopped.
    """
    form = form_of(settings, family, engine)
    with ExitStack() as stack:
        folder = _kept(settings, form, stack)
        if folder is None:
            folder = _compiled_where_it_can_be(settings, form, family, engine, stop, stack)
        yield folder


def _kept(settings: Settings, form: Form, stack: ExitStack) -> Path | None:
    for place in store_folders(settings):
        folder = place / form.name
        try:
            stack.enter_context(in_use(folder))
        except FileNotFoundError:
            continue
        mark_used(folder)
        return folder
    return None


def _compiled_where_it_can_be(
    settings: Settings, form: Form, family: Family, engine: FileEngine, stop: threading.Event, stack: ExitStack
) -> Path:
    failure: CompilingFailed | None = None
    for place in store_folders(settings):
        if not is_writable(place):
            continue
        try:
            _compile_into(place, form, settings, family, engine, stop)
        except _NoSpace as error:
            _log.warning("%s", error)
            failure = error
            continue
        stack.enter_context(in_use(place / form.name))
        return place / form.name
    if failure is not None:
        raise failure
    _log.warning("no folder to keep the compiled model in; set CACHE_DIR to a writable folder")
    temporary = Path(stack.enter_context(TemporaryDirectory()))
    _compile_into(temporary, form, settings, family, engine, stop)
    return temporary / form.name


def compile_model(settings: Settings, place: Path, stop: threading.Event | None = None) -> Path:
    """Compile the model of MODELS_DIR in PRECISION into a folder below `place`, unless it is there already.

    Returns that folder. Raises ConfigurationError and CompilingFailed, whose messages are for the user.
    """
    family = find_family(settings.models_dir)
    check_model(settings.models_dir, family)
    engine = chosen_engine(settings.model_copy(update={"enable_cuda": False}))
    if not isinstance(engine, FileEngine):
        raise ConfigurationError(f"{engine.title} computes a model as it is; there is nothing to compile")
    if not is_writable(place):
        raise ConfigurationError(f"{place} is not a folder that can be written")
    form = form_of(settings, family, engine)
    _compile_into(place, form, settings, family, engine, stop or threading.Event())
    return place / form.name


def _compile_into(
    place: Path, form: Form, settings: Settings, family: Family, engine: FileEngine, stop: threading.Event
) -> None:
    with written_by_one(place, form, stop):
        if is_whole(place / form.name):
            return  # another process was first
        _log.info("compiling the model in %s into %s; this happens once", form.precision, place)
        with being_written(place, form) as folder:
            _in_process(settings, form, type(engine).__module__, folder, stop)
        remove_stale(place, form, shared=place.parent != settings.models_dir)


def _in_process(settings: Settings, form: Form, module: str, folder: Path, stop: threading.Event) -> None:
    """Write the form into `folder`. The process ends with this one, or when `stop` is set."""
    environment = {**os.environ, "MODELS_DIR": str(settings.models_dir)}
    environment["TRUST_REMOTE_CODE"] = str(trust_remote_code(settings)).lower()
    environment["THREADS"] = str(settings.threads)
    environment["TQDM_DISABLE"] = "1"
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_ROOT), environment.get("PYTHONPATH"))))
    command = [sys.executable, "-W", "ignore::FutureWarning", "-m", "app.models.convert", str(folder)]
    command += ["--parent", str(os.getpid()), "--form", json.dumps(asdict(form)), "--import", module]
    process = subprocess.Popen(
        command,
        env=environment,
        process_group=0,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )
    reader = threading.Thread(target=_log_lines, args=(process,), daemon=True)
    reader.start()
    started = time.monotonic()
    try:
        while True:
            try:
                process.wait(0.05)
                break
            except subprocess.TimeoutExpired:
                pass
            if stop.is_set():
                raise Stopped("stopped while the model was compiled")
            if time.monotonic() > started + _LONGEST:
                raise CompilingFailed(
                    f"compiling the model took more than {_LONGEST} s; give it more CPUs, or compile in the build"
                )
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        reader.join(1)
        assert process.stdout is not None
        answer = process.stdout.read() if process.returncode >= 0 else ""
        process.stdout.close()
    _raise_failure(process.returncode, answer, folder)


def _log_lines(process: "subprocess.Popen[str]") -> None:
    """What the compiler says goes to the log."""
    assert process.stderr is not None
    with process.stderr:
        for line in process.stderr:
            if line.strip():
                _log.info("compiler: %s", line.rstrip())


def _raise_failure(status: int, answer: str, folder: Path) -> None:
    if status == 0:
        return
    if status == -signal.SIGKILL:
        raise CompilingFailed(
            "the process that compiled the model was killed, probably for lack of memory; compile in the build "
            "(bake the model), or give this container more memory for its first start"
        )
    if status < 0:
        raise CompilingFailed(f"the process that compiled the model ended by {signal.Signals(-status).name}")
    try:
        failure = json.loads(answer)
    except ValueError:
        raise CompilingFailed(f"the process that compiled the model ended with status {status}") from None
    if failure["kind"] == "model":
        raise ConfigurationError(failure["error"])
    if failure["kind"] == "space":
        raise _NoSpace(f"the model cannot be compiled into {folder.parent}: {failure['error']}")
    raise CompilingFailed(f"the model cannot be compiled: {failure['error']}; the log has more")
