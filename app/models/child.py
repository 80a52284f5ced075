"""Work in a process of its own: torch would stay in this one's memory, and a process can be stopped at any moment.

`run_in_child` starts `python -m app.models.child MODULE TASK`, and that calls the module's function work(task).
"""

import errno
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from app.child_process import end_with, python_environment
from app.errors import CompilingFailed, ConfigurationError, DiskFull, Stopped, first_line

_log = logging.getLogger(__name__)

# Each line is in the log as soon as it is printed, and no bars of progress are.
_ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def run_in_child(module: str, doing: str, task: Mapping[str, Any], stop: threading.Event) -> None:
    """Let the module do a task of JSON values, of which "folder" is where it writes.

    What it prints goes to the log, after `doing`, as in "baking". It ends with this process, and when `stop` is set.
    Raises ConfigurationError where its work did, DiskFull, CompilingFailed for everything else, and Stopped.
    """
    arguments = [module, json.dumps({**task, "parent": os.getpid()})]
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore::FutureWarning", "-m", "app.models.child", *arguments],
        env=python_environment(**_ENVIRONMENT),
        process_group=0,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )
    reader = threading.Thread(target=_log_lines, args=(process, doing), daemon=True)
    reader.start()
    try:
        while process.poll() is None:
            if stop.wait(0.05):
                raise Stopped(f"stopped while {doing} the model")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        reader.join(1)
        assert process.stdout is not None
        with process.stdout:
            answer = process.stdout.read() if process.returncode >= 0 else ""
    if process.returncode:
        raise _failure(process.returncode, answer, doing)


def _log_lines(process: "subprocess.Popen[str]", doing: str) -> None:
    assert process.stderr is not None
    with process.stderr:
        for line in process.stderr:
            if line.strip():
                _log.info("%s: %s", doing, line.rstrip())


def _failure(status: int, answer: str, doing: str) -> Exception:
    if status == -signal.SIGKILL:
        return CompilingFailed(
            f"the process that was {doing} the model was killed, probably for lack of memory; bake while building "
            "the image (download.py), or give this container more memory for its first start"
        )
    if status < 0:
        return CompilingFailed(f"the process that was {doing} the model ended by {signal.Signals(-status).name}")
    try:
        kind, message = json.loads(answer)
    except ValueError:
        return CompilingFailed(f"the process that was {doing} the model ended with status {status}")
    if kind == "configuration":
        return ConfigurationError(message)
    if kind == "disk full":
        return DiskFull(f"{doing} the model failed: the disk is full")
    return CompilingFailed(f"{doing} the model failed: {message}; the log has more")


def _work() -> int:
    """Do the task of the command line, and print why it failed, if it does. Returns the exit status."""
    module, task = sys.argv[1], json.loads(sys.argv[2])
    # Before anything large is imported: end as soon as the process that waits for this one has ended.
    end_with(task["parent"])
    stdout = os.dup(1)
    os.dup2(2, 1)  # libraries print what is for the log
    try:
        importlib.import_module(module).work(task)
        return 0
    except ConfigurationError as error:
        failure = "configuration", str(error)
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        short = isinstance(error, MemoryError)
        failure = _kind(error, Path(task["folder"])), "the memory does not suffice" if short else first_line(error)
    with os.fdopen(stdout, "w", encoding="utf-8") as file:
        json.dump(failure, file)
    return 1


def _kind(error: Exception, folder: Path) -> str:
    """Libraries do not tell why they could not write: whether a megabyte can still be written does."""
    try:
        with TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 2**20)
            file.flush()
    except OSError as trial:
        error = trial
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "disk full" if full else "other"


if __name__ == "__main__":
    sys.exit(_work())
