"""Runs the scripts of examples/weaviate as a user runs them."""

import csv
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.script_process import ScriptProcess
from tests.support.server import ROOT

SCRIPTS = ROOT / "examples" / "weaviate"


def start_script(name: str, *arguments: str | Path, env: dict[str, str], cwd: Path) -> ScriptProcess:
    return ScriptProcess(SCRIPTS / name, [str(each) for each in arguments], env, cwd)


def run_script(name: str, *arguments: str | Path, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return start_script(name, *arguments, env=env, cwd=cwd).finish()


class User:
    """Somebody in a folder of their own, with a Weaviate; `patient` ones start Python anew for each script."""

    def __init__(
        self, folder: Path, env: dict[str, str], collection: str = "ClipExample", patient: bool = False
    ) -> None:
        self.folder = folder
        self.patient = patient
        self.env = env
        self.collection = collection

    def run(self, name: str, *arguments: str | Path) -> str:
        """What the script prints; fails unless it exits with 0."""
        result = self.try_(name, *arguments)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def fail(self, name: str, *arguments: str | Path) -> str:
        """The one line with which the script fails."""
        result = self.try_(name, *arguments)
        assert result.returncode == 1, result.stdout + result.stderr
        *_, line = result.stderr.splitlines()
        assert line.startswith("error: "), result.stderr
        assert "Traceback" not in result.stderr
        return line

    def try_(self, name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        if not self.patient:
            return self.start(name, *arguments).finish()
        command = [sys.executable, SCRIPTS / name, *arguments, *self._options(name)]
        return subprocess.run(
            command, env={**os.environ, **self.env}, cwd=self.folder, capture_output=True, text=True, timeout=300
        )

    def start(self, name: str, *arguments: str | Path) -> ScriptProcess:
        return start_script(name, *arguments, *self._options(name), env=self.env, cwd=self.folder)

    def failures(self) -> dict[str, str]:
        """The reasons in failures.csv, by file name; empty if there is no such file."""
        path = self.folder / "failures.csv"
        if not path.exists():
            return {}
        with path.open(newline="") as file:
            return {Path(row["path"]).name: row["reason"] for row in csv.DictReader(file)}

    def _options(self, name: str) -> tuple[str, ...]:
        return () if name == "draw_pictures.py" else ("--collection", self.collection)


def at_once(calls: Iterable[Callable[[], str]]) -> list[str]:
    """What each call gives; two run at a time, as a script spends most of its time on imports."""
    with ThreadPoolExecutor(2) as pool:
        return [each.result() for each in [pool.submit(call) for call in calls]]


def hits(output: str) -> list[tuple[float, float, str]]:
    """Distance, certainty and path of each row of a search's table."""
    rows = [line.split() for line in output.splitlines() if re.match(r" *\d+ ", line)]
    return [(float(row[1]), float(row[2]), row[-1]) for row in rows]


def pictures_of(shapes: Path) -> list[dict[str, str]]:
    with (shapes / "pictures.csv").open(newline="") as file:
        return list(csv.DictReader(file))
