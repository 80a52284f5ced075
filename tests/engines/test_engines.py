"""An engine is one file and one line: one that lives here compiles and serves a model."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from app.engines import ENGINES
from app.engines.exported import exported_program
from app.errors import CompilingFailed, ConfigurationError, NotCompiled, Stopped
from app.main import create_app
from app.models.compile import compile_model
from app.models.load import load_model
from app.models.store import read_manifest
from app.settings import Settings
from app.towers import InferenceSession, Inputs, Vectors
from tests.support.compiled import assert_like_reference
from tests.support.server import ROOT, RunningApp


class Exported:
    """Keeps a module as torch exports it, and computes with that."""

    name = "toy"
    title = "the toy"
    devices: tuple[str, ...] = ("cpu",)
    refuses: tuple[str, ...] = ()

    def missing(self) -> str | None:
        return None

    def device(self, settings: Settings) -> str:
        return "a table"

    def precisions(self, settings: Settings) -> list[str]:
        return ["float32"]

    def version(self) -> str:
        return "1"

    def export(
        self, module: torch.nn.Module, sample: Inputs, path: Path, *, any_length: bool, precision: str
    ) -> None:
        if path.name in self.refuses:
            raise NotCompiled("it is too good for it")
        torch.export.save(exported_program(module, sample, any_length), path.with_suffix(".pt2"))
        path.with_suffix(".json").write_text(json.dumps(list(sample)))

    def open_file(self, path: Path, precision: str, settings: Settings) -> InferenceSession:
        module = torch.export.load(path.with_suffix(".pt2")).module()
        return Session(module, json.loads(path.with_suffix(".json").read_text()))


class NoTexts(Exported):
    """The same, which takes no text towers."""

    name = "toy-no-texts"
    title = "the picky toy"
    refuses = ("text",)


class Failing(Exported):
    """Ends as the folder of its model says: the name of a method here."""

    name = "toy-failing"
    title = "the failing toy"

    def export(
        self, module: torch.nn.Module, sample: Inputs, path: Path, *, any_length: bool, precision: str
    ) -> None:
        print("the toy says", os.environ["TOY"], flush=True)
        getattr(self, os.environ["TOY"])(path)
        super().export(module, sample, path, any_length=any_length, precision=precision)

    def killed(self, path: Path) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def without_space(self, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def without_memory(self, path: Path) -> None:
        raise MemoryError

    def crashing(self, path: Path) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    def surprising(self, path: Path) -> None:
        raise RuntimeError("inside of the engine")

    def slow(self, path: Path) -> None:
        subprocess.Popen(["sleep", "60"])  # a child of its own
        path.with_suffix(".half").touch()
        time.sleep(1000)

    def fine(self, path: Path) -> None:
        pass


class Session:
    def __init__(self, module: torch.nn.Module, names: list[str]) -> None:
        self._module = module
        self._names = names

    def start(self, batch: Inputs) -> Callable[[], Vectors]:
        with torch.inference_mode():
            vectors = self._module(*(torch.from_numpy(batch[name]) for name in self._names)).numpy()
        return lambda: np.asarray(vectors, np.float32)


TOYS = [Exported(), NoTexts(), Failing()]
if __name__ != "__main__":
    ENGINES.extend(TOYS)


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    yield
    for toy in TOYS:
        ENGINES.remove(toy)


@pytest.fixture
def settings(tiny_models: Path, tmp_path: Path) -> Settings:
    return Settings(models_dir=tiny_models, cache_dir=tmp_path, engine="toy")


@pytest.mark.usefixtures("compile_warm")
def test_a_toy_engine_compiles_and_serves(settings: Settings, tiny_models: Path, tmp_path: Path) -> None:
    folder = compile_model(settings, tmp_path / "compiled")
    assert (folder / "image.pt2").is_file() and not list(folder.glob("*.xml"))
    model = load_model(settings)
    with RunningApp(create_app(settings, lambda _: model)) as running:
        assert_like_reference(running.url, tiny_models)
    assert model.engine == "the toy on a table"


@pytest.mark.usefixtures("compile_warm")
def test_a_tower_that_one_engine_refuses_is_computed_by_the_next(
    settings: Settings,
    tiny_models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    place = tmp_path / "compiled"
    picky = settings.model_copy(update={"engine": "toy-no-texts"})
    towers = read_manifest(compile_model(picky, place))["towers"]
    assert "too good" in towers["text"]["refused"] and "refused" not in towers["image"]
    with pytest.raises(ConfigurationError, match=r"ENGINE=toy-no-texts: .*text tower: it is too good"):
        load_model(picky)
    monkeypatch.setattr("app.models.engine.ENGINES", [TOYS[1], *ENGINES])
    model = load_model(settings.model_copy(update={"engine": "auto"}))
    with RunningApp(create_app(settings, lambda _: model)) as running:
        assert_like_reference(running.url, tiny_models)
    assert model.engine == "the picky toy on a table, the text tower by torch"
    assert any("text tower: it is too good" in record.message for record in caplog.records)


def test_an_engine_that_is_not_there_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"ENGINE='abacus': .*auto, openvino, torch"):
        load_model(settings.model_copy(update={"engine": "abacus"}))
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigurationError, match=r"ENGINE=openvino: .*pip install openvino"):
        load_model(settings.model_copy(update={"engine": "openvino"}))


def test_a_precision_that_the_engine_lacks_is_named(settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match=r"PRECISION=int8: the toy on a table takes float32"):
        load_model(settings.model_copy(update={"precision": "int8"}))


@pytest.mark.usefixtures("compile_warm")
@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("killed", "probably for lack of memory"),
        ("without_space", "the disk is full"),
        ("without_memory", "the memory does not suffice"),
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
    failing, place = settings.model_copy(update={"engine": "toy-failing"}), tmp_path / "compiled"
    monkeypatch.setenv("TOY", how)
    with caplog.at_level("INFO"), pytest.raises(CompilingFailed, match=cause):
        compile_model(failing, place)
    assert any(f"compiler: the toy says {how}" in record.message for record in caplog.records)
    assert not list(place.iterdir())


@pytest.mark.usefixtures("compile_warm")
def test_a_failure_is_tried_again_and_the_next_engine_serves_meanwhile(
    settings: Settings,
    tiny_models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("app.models.engine.ENGINES", [TOYS[2], *ENGINES])
    models = tmp_path / "models"
    for name in ("clip", "text"):
        shutil.copytree(tiny_models / name, models / name)
    auto = Settings(models_dir=models, cache_dir=tmp_path, engine="auto")
    monkeypatch.setenv("TOY", "killed")
    assert load_model(auto).engine == "torch on cpu"
    assert any("lack of memory" in record.message for record in caplog.records)
    monkeypatch.setenv("TOY", "fine")
    assert load_model(auto).engine == "the failing toy on a table"


def test_a_stop_ends_what_compiles_and_leaves_nothing(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY", "slow")
    failing, place = settings.model_copy(update={"engine": "toy-failing"}), tmp_path / "compiled"
    stop, outcome = threading.Event(), []

    def compiling() -> None:
        try:
            compile_model(failing, place, stop)
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
    thread.join(10)
    assert outcome and children
    assert not list(place.iterdir())
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


def test_what_compiles_ends_with_the_process_that_waits(
    settings: Settings, tiny_models: Path, tmp_path: Path
) -> None:
    place = tmp_path / "compiled"
    code = (
        "import sys\nfrom pathlib import Path\nfrom app.models.compile import compile_model\n"
        "import tests.engines.test_engines\nfrom app.settings import Settings\n"
        "compile_model(Settings(engine='toy-failing'), Path(sys.argv[1]))"
    )
    env = {**os.environ, "MODELS_DIR": str(tiny_models), "TOY": "slow"}
    process = subprocess.Popen([sys.executable, "-c", code, str(place)], env=env, cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(place.glob(".making-*/*.half")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    children = [pid for pid in _with_argument(str(place)) if pid != process.pid]
    process.kill()
    process.wait()
    assert children
    deadline = time.monotonic() + 10
    while any(_runs(pid) for pid in children):
        assert time.monotonic() < deadline, "it goes on"
        time.sleep(0.05)


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


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
