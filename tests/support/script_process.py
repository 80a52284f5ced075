"""Runs a script in a process that has its libraries loaded already: it starts in milliseconds instead of a second."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from multiprocessing.connection import wait
from pathlib import Path

# Starting a process also looks whether others have ended, and a status can be read only once.
_lock = threading.Lock()
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [__name__, "PIL.Image", "PIL.ImageDraw", "PIL.ImageFont", "httpx", "numpy", "tqdm", "weaviate.classes.query"]
)


class ScriptProcess:
    """A running script, with files for what it prints."""

    def __init__(self, script: Path, arguments: list[str], env: dict[str, str], cwd: Path) -> None:
        self._script = script
        self._output, self._errors = (Path(tempfile.mkstemp()[1]) for _ in range(2))
        command = str(script), arguments, {**os.environ, **env}, str(cwd), str(self._output), str(self._errors)
        self._process = _context.Process(target=_run, args=command)
        with _lock:
            self._process.start()

    def printed(self) -> str:
        """What it has printed so far, errors last."""
        return self._output.read_text() + self._errors.read_text()

    def finish(self, seconds: float = 300) -> subprocess.CompletedProcess[str]:
        """What it printed and its exit status, once it has ended; kills it after so many seconds."""
        if not wait([self._process.sentinel], seconds):
            self._process.kill()
        with _lock:
            self._process.join()
            status = self._process.exitcode
        assert status is not None
        output, errors = self._output.read_text(), self._errors.read_text()
        self._output.unlink()
        self._errors.unlink()
        return subprocess.CompletedProcess(self._script, status, output, errors)


def _run(script: str, arguments: list[str], env: dict[str, str], cwd: str, output: str, errors: str) -> None:
    for number, path in ((1, output), (2, errors)):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(script, run_name="__main__")
