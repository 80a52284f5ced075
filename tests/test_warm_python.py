"""The tests' own Python that has loaded torch: what it runs cannot tell it from another, nor can who starts it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.warm_python import warm_python

SCRIPT = """
import os, signal, sys, time
print(sys.argv[1:], os.getcwd(), os.environ.get("VARIABLE"), sys.path[:2], "torch" in sys.modules, flush=True)
print("read", sys.stdin.read(), file=sys.stderr)
how = sys.argv[1]
if how == "raises":
    raise ValueError("of the script")
if how == "says":
    sys.exit("the reason")
if how.isdigit():
    os.kill(os.getpid(), int(how))
if how == "sleeps":
    time.sleep(100)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


@pytest.mark.parametrize("how", ["ends", "raises", "says", str(int(signal.SIGKILL)), str(int(signal.SIGSEGV))])
def test_streams_environment_and_status_are_those_of_a_process_of_its_own(how: str, script: Path) -> None:
    def run(python: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "VARIABLE": "value", "PYTHONPATH": "/somewhere"}
        command = [python, str(script), how, "more"]
        return subprocess.run(
            command, env=environment, cwd=script.parent, input="input", capture_output=True, text=True, timeout=60
        )

    cold, warm = run(sys.executable), run(warm_python())
    assert warm.returncode == cold.returncode
    assert warm.stdout == cold.stdout.replace("False", "True")
    assert warm.stderr.splitlines()[0] == cold.stderr.splitlines()[0] == "read input"
    assert warm.stderr.splitlines()[-1] == cold.stderr.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_both_processes(number: signal.Signals, script: Path) -> None:
    command = [warm_python(), str(script), "sleeps"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"read \n"
        process.send_signal(number)
        assert process.stderr.read() == b""  # nobody holds the stream any more
    assert process.returncode == -number


def test_libraries_that_read_variables_are_imported_by_each_process(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    names = ("huggingface_hub", "transformers", "sentence_transformers", "openvino", "app")
    script.write_text(f"import sys\nprint([name for name in {names!r} if name in sys.modules])\n")
    assert subprocess.run([warm_python(), str(script)], capture_output=True, text=True).stdout == "[]\n"


def test_what_bounds_its_own_memory_is_an_ordinary_process() -> None:
    command = [warm_python(), "-c", "import sys; print(sys.executable, 'torch' in sys.modules)"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == f"{sys.executable} False\n"
