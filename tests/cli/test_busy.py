"""What takes long shows that it goes on, on a terminal; nothing elsewhere."""

import os
import pty
import subprocess
from pathlib import Path

import pytest

from tests.support.server import ROOT
from tests.support.warm_python import warm_python

PROGRAM = """
from app.cli.bake import busy
with busy("for a moment"):
    pass
"""


def shown(*arguments: str | Path, terminal: bool, **env: str) -> str:
    """What a program writes to stderr."""
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", **env}
    command = [warm_python(), *map(str, arguments)]
    if not terminal:
        return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True).stderr
    ours, its = pty.openpty()
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=its) as process:
        os.close(its)
        parts = []
        while part := read(ours):
            parts.append(part)
    os.close(ours)
    assert process.returncode == 0
    return b"".join(parts).decode()


def read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # nobody writes to it any more
        return b""


@pytest.mark.parametrize("terminal", [True, False])
def test_a_busy_line_is_for_terminals_alone(terminal: bool) -> None:
    text = shown("-c", PROGRAM, terminal=terminal)
    assert ("for a moment" in text) == terminal
    assert terminal or text == ""


def test_bake_and_compile_show_that_they_go_on(tiny_models: Path, tmp_path: Path) -> None:
    names = ("--clip-model", tiny_models / "clip", "--text-model", tiny_models / "text")
    baked = tmp_path / "baked"
    assert "trying the model" in shown("download.py", *names, "--no-compile", terminal=True, MODELS_DIR=str(baked))
    compiled = ("compile", "--output", tmp_path / "compiled")
    assert "compiling the model" in shown("-m", "app", *compiled, terminal=True, MODELS_DIR=str(baked))
