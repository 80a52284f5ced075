"""Work in a process of its own: torch would stay in this one's memory, and a process can be stopped at any moment.

`run_in_child` starts `python -m app.models.child MODULE TASK`, and that calls the module's function work(task).
"""

import errno
import importlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import IO, Any

from app.errors import CompilingFailed, ConfigurationError, Stopped, first_line
from app.system import end_with, python_environment

_log = logging.getLogger(__name__)

# Each line is in the log as soon as it is printed, and no bars of progress are.
_ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
# With less space than this, in bytes, it was the disk that was full: libraries do not tell why they could not write.
_MIN_FREE = 2**20
# The status of a process whose task another try would not do either.
_NEVER = 2


def run_in_child(module: str, doing: str, task: Mapping[str, Any], stop: threading.Event) -> None:
    """Let the module do a task of JSON values, of which "folder" is where it writes.

    What it prints goes to the log, after `doing`, as in "baking". It ends with this process, and when `stop` is set.
    Raises ConfigurationError where its work did, CompilingFailed for everything else, and Stopped.
    """
    arguments = [module, json.dumps({**task, "doing": doing, "parent": os.getpid()})]
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
    assert process.stdout is not None and process.stderr is not None
    reader = threading.Thread(target=_log_lines, args=(process.stderr, doing), daemon=True)
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
        with process.stdout:
            answer = process.stdout.read() if process.returncode >= 0 else ""
    if process.returncode:
        raise _failure(process.returncode, answer, doing)


def _log_lines(lines: IO[str], doing: str) -> None:
    with lines:
        for line in filter(str.strip, lines):
            _log.info("%s: %s", doing, line.rstrip())


def _failure(status: int, answer: str, doing: str) -> Exception:
    if answer:
        return ConfigurationError(answer) if status == _NEVER else CompilingFailed(answer)
    if status == -signal.SIGKILL:
        return CompilingFailed(
            f"the process that was {doing} the model was killed, probably for lack of memory; bake while building "
            "the image (download.py), or give this container more memory for its first start"
        )
    how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
    return CompilingFailed(f"the process that was {doing} the model ended {how}")


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
        status, answer = _NEVER, str(error)
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        reason = f"{first_line(error)}; the log has more"
        no_space = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if no_space or shutil.disk_usage(task["folder"]).free < _MIN_FREE:
            reason = "the disk is full"
        elif isinstance(error, MemoryError):
            reason = "the memory does not suffice"
        status, answer = 1, f"{task['doing']} the model failed: {reason}"
    with os.fdopen(stdout, "w", encoding="utf-8") as file:
        file.write(answer)
    return status


if __name__ == "__main__":
    sys.exit(_work())
