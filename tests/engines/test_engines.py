"""Which engine computes, and what happens where OpenVINO cannot: it is told to fail in the process that compiles."""

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from app.errors import CompilingFailed, ConfigurationError, Stopped
from app.main import create_app
from app.models.compile import compile_model
from app.models.load import load_model
from app.models.store import read_manifest
from app.settings import Settings, load_settings
from tests.support.compiled import assert_like_reference
from tests.support.load import wait_until
from tests.support.server import ROOT, RunningApp, is_running

# Before OpenVINO's own export of a tower; `path` ends with the tower's name.
# Not one that is forked from another process: what it starts ends with it.
PYTHON = sys.executable
FAILURES = {
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "without space": "raise OSError(errno.ENOSPC, 'No space left on device')",
    "without memory": "raise MemoryError",
    "crashing": "os.kill(os.getpid(), signal.SIGSEGV)",
    "surprising": "raise RuntimeError('inside of the engine')",
    "no texts": "if path.name == 'text': raise NotCompiled('it is too good for it')",
    "slow": "subprocess.Popen(['sleep', '60']); path.with_suffix('.half').touch(); time.sleep(1000)",
    "fine": "pass",
}


@pytest.fixture(autouse=True)
def _failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes started from here fail as the variable FAILURE says."""
    folder = tmp_path / "sitecustomize"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import contextlib, errno, os, signal, subprocess, time\n"
        "def fail(self, module, sample, path, **options):\n"
        "    print('the engine says', os.environ['FAILURE'], flush=True)\n"
        f"    exec({FAILURES!r}[os.environ['FAILURE']])\n"
        "    export(self, module, sample, path, **options)\n"
        "with contextlib.suppress(ImportError):\n"  # what is not started to compile may not find the app yet
        "    from app.engines.openvino import OpenVINO\n"
        "    from app.errors import NotCompiled\n"
        "    export, OpenVINO.export = OpenVINO.export, fail\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("FAILURE", "fine")


@pytest.fixture
def settings(tiny_models: Path, tmp_path: Path, compile_warm: None) -> Settings:
    """Of a model that is not compiled yet."""
    models = tmp_path / "models"
    models.mkdir()
    for name in ("clip", "text"):
        shutil.copytree(tiny_models / name, models / name)
    return Settings(models_dir=models, cache_dir=tmp_path)


def test_a_model_of_which_openvino_refuses_a_tower_is_computed_by_torch(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FAILURE", "no texts")
    towers = read_manifest(compile_model(settings, settings.models_dir / "compiled"))["towers"]
    assert "too good" in towers["text"]["refused"]
    with pytest.raises(ConfigurationError, match=r"ENGINE=openvino: .*text tower: it is too good"):
        load_model(settings.model_copy(update={"engine": "openvino"}))
    model = load_model(settings)
    with RunningApp(create_app(settings, lambda _: model)) as running:
        assert_like_reference(running.url, settings.models_dir)
    assert model.engine == "torch on cpu"
    assert any("text tower: it is too good" in record.message for record in caplog.records)


def test_an_engine_that_is_not_there_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"ENGINE='abacus': .*'auto', 'openvino' or 'torch'"):
        load_settings({"engine": "abacus"})
    monkeypatch.setitem(sys.modules, "torch", None)
    for chosen in ({"engine": "torch"}, {"enable_cuda": True}):
        with pytest.raises(ConfigurationError, match=r"needs torch, which is not installed; pip install"):
            load_model(settings.model_copy(update=chosen))


def test_a_precision_that_the_engine_lacks_is_named(settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match=r"PRECISION=int8: torch on cpu takes float32, bfloat16"):
        load_model(settings.model_copy(update={"precision": "int8", "engine": "torch"}))


def test_torch_has_nothing_to_compile(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nothing to compile"):
        compile_model(settings.model_copy(update={"engine": "torch"}), tmp_path)


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("killed", "probably for lack of memory"),
        ("without space", "the disk is full"),
        ("without memory", "the memory does not suffice"),
        ("crashing", "SIGSEGV"),
        ("surprising", "inside of the engine"),
    ],
)
def test_what_keeps_a_model_from_being_compiled_is_said_and_not_remembered(
    how: str,
    cause: str,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    place = tmp_path / "compiled"
    monkeypatch.setenv("FAILURE", how)
    with caplog.at_level("INFO"), pytest.raises(CompilingFailed, match=cause):
        compile_model(settings, place)
    assert any(f"compiling: the engine says {how}" in record.message for record in caplog.records)
    assert not list(place.iterdir())


def test_a_failure_is_tried_again_and_torch_serves_meanwhile(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FAILURE", "killed")
    assert load_model(settings).engine == "torch on cpu"
    assert any("lack of memory" in record.message for record in caplog.records)
    monkeypatch.setenv("FAILURE", "fine")
    assert load_model(settings).engine == "OpenVINO on the CPU"


def test_a_stop_ends_what_compiles_and_leaves_nothing(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILURE", "slow")
    place, stop, outcome = tmp_path / "compiled", threading.Event(), []

    def compiling() -> None:
        try:
            compile_model(settings, place, stop)
        except Stopped as error:
            outcome.append(error)

    thread = threading.Thread(target=compiling)
    thread.start()
    deadline = time.monotonic() + 300
    while not list(place.glob(".making-*/*.half")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = _with_argument(str(place))
    stop.set()
    thread.join(60)
    assert outcome and children
    assert not list(place.iterdir())
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


def test_what_compiles_ends_with_the_process_that_waits(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "compiled"
    env = {**os.environ, "MODELS_DIR": str(settings.models_dir), "FAILURE": "slow"}
    command = [PYTHON, "-m", "app", "compile", "--output", str(place)]
    process = subprocess.Popen(command, env=env, cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(place.glob(".making-*/*.half")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    children = [pid for pid in _with_argument(str(place)) if pid != process.pid]
    process.kill()
    process.wait()
    assert children
    wait_until(lambda: not any(map(is_running, children)))


def _with_argument(text: str) -> list[int]:
    """Processes with `text` in their command line, this one aside."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text.encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found
