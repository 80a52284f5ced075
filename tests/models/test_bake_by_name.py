"""A start that names a model bakes it first, in a folder that holds none."""

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from app.models import bake
from tests.support.compiled import assert_like_reference, compiled
from tests.support.hub import Hub, hub_environment, serve_hub
from tests.support.load import wait_until
from tests.support.server import ROOT, assert_in_time, environment_of, free_port, wait_for_port, wait_for_ready
from tests.support.tiny import clip_pair
from tests.support.warm_python import warm_python

NAMES = {"CLIP_MODEL_NAME": "someone/clip", "TEXT_MODEL_NAME": "someone/clip"}
NOBODY = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip_pair(tmp_path_factory.mktemp("pair"), seed=21) / "clip"


@pytest.fixture
def hub(clip: Path) -> Iterator[Hub]:
    with serve_hub({"someone/clip": clip, "someone/other": clip}) as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a server starts to bake has loaded torch already; the server itself has not, unless it computes by it."""
    folder = tmp_path_factory.mktemp("warm")
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.executable = {warm_python()!r}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        yield


def start(models: Path, hub: str, port: int | None = None, **env: str) -> subprocess.Popen[str]:
    variables = environment_of(models, PORT=str(port or free_port()), **env)
    environment = {**variables, **hub_environment(hub, models.parent / "hub-home"), **variables, "HF_ENDPOINT": hub}
    environment.pop("HF_HUB_OFFLINE", None)
    is_warm = environment["PYTHONPATH"] and env.get("ENGINE") == "torch"
    command = [warm_python() if is_warm else sys.executable, "-m", "app"]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, cwd=ROOT)


@contextmanager
def served(models: Path, hub: str, **env: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    port = free_port()
    process = start(models, hub, port, **env)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for_port(url)
        yield url, process
    finally:
        process.terminate()
        assert process.wait(25) == 0


def refusal(models: Path, hub: str, **env: str) -> str:
    """The reason that the log gives of a start that ends with status 1."""
    process = start(models, hub, **env)
    _, log = process.communicate(timeout=100)
    assert process.returncode == 1 and "Traceback" not in log, log
    (reason,) = [line for line in log.splitlines() if " CRITICAL " in line]
    return reason


def state(models: Path) -> dict[Path, int]:
    """The time of every file."""
    return {path: path.stat().st_mtime_ns for path in models.rglob("*") if path.is_file()}


def test_a_named_model_is_baked_while_requests_wait_and_the_next_start_is_offline(
    hub: Hub, clip: Path, tmp_path: Path
) -> None:
    models, answers = tmp_path / "models", []
    hub.gate.clear()
    with served(models, hub.url, CLIENT_TIMEOUT="350", **NAMES) as (url, process):
        asking = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{url}/vectorize", json={"texts": ["a"]}, timeout=300))
        )
        asking.start()
        wait_until(lambda: bool(hub.downloads), 60)
        assert httpx.get(f"{url}/.well-known/live").status_code == 204
        ready = httpx.get(f"{url}/.well-known/ready")
        assert ready.status_code == 503 and "still loading" in ready.json()["error"]
        hub.gate.set()
        wait_for_ready(url, process)
        asking.join()
        assert answers[0].status_code == 200 and len(answers[0].json()["textVectors"]) == 1
        assert_like_reference(url, models)
        maps = Path(f"/proc/{process.pid}/maps")
        assert not maps.exists() or "libtorch" not in maps.read_text(), "torch went away with what baked"
        process.terminate()
        _, log = process.communicate(timeout=25)
    assert "baking: downloading someone/clip" in log and "baking: OpenVINO on the CPU" in log
    assert len(compiled(models / "compiled")) == 1 and not (models / ".downloading").exists()
    before, downloads = state(models), len(hub.downloads)
    with served(models, NOBODY, **NAMES) as (url, process):
        wait_for_ready(url, process)
    with served(models, NOBODY) as (url, process):  # a name is not needed any more
        wait_for_ready(url, process)
    assert state(models) == before and len(hub.downloads) == downloads


def test_another_model_than_the_one_named_ends_the_start(hub: Hub, clip: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    with served(models, hub.url, **NAMES) as (url, process):
        wait_for_ready(url, process)
    before, downloads = state(models), len(hub.downloads)
    other = {"CLIP_MODEL_NAME": "someone/other", "TEXT_MODEL_NAME": "someone/other"}
    said = refusal(models, hub.url, **other)
    assert "holds the model of CLIP_MODEL_NAME=someone/clip" in said
    assert "names CLIP_MODEL_NAME=someone/other" in said
    for name in ("clip", "text"):  # as in a baked image: the compiled model alone
        shutil.rmtree(models / name)
    with served(models, NOBODY, **NAMES) as (url, process):
        wait_for_ready(url, process)
    assert "holds the model of CLIP_MODEL_NAME=someone/clip" in refusal(models, hub.url, **other)
    assert len(hub.downloads) == downloads and {path: before[path] for path in state(models)} == state(models)


def test_a_folder_of_the_old_container_is_served_whatever_is_named(hub: Hub) -> None:
    """That took no notice of the names at run time."""
    with served(ROOT / "demo" / "models", hub.url, **NAMES) as (url, process):
        wait_for_ready(url, process)
    assert process.stderr is not None and "was not baked by name" in process.stderr.read()
    assert not hub.downloads


def test_without_a_name_nothing_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    assert "there is no model folder" in refusal(tmp_path / "models", hub.url, CLIP_MODEL_TYPE="openai")
    assert not hub.downloads and not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("names", "folder", "says"),
    [
        ({"CLIP_MODEL_NAME": "someone/clip"}, "models", "TEXT_MODEL_NAME is not set"),
        ({**NAMES, "CLIP_MODEL_NAME": "nobody/nothing"}, "models", "no model nobody/nothing"),
        (NAMES, "file/models", "file/models is not writable"),
    ],
)
def test_what_keeps_a_named_model_from_being_baked_is_said(
    hub: Hub, tmp_path: Path, names: dict[str, str], folder: str, says: str
) -> None:
    (tmp_path / "file").write_text("no folder can be made here, not even by root")
    assert says in refusal(tmp_path / folder, hub.url, **names)


@pytest.mark.parametrize(
    ("engine", "moment"), [("torch", ".downloading/*/.cache"), ("openvino", ".downloading/baked/compiled/.making-*")]
)
def test_a_stop_while_it_bakes_takes_two_seconds_and_the_next_start_goes_on(
    hub: Hub, tmp_path: Path, engine: str, moment: str
) -> None:
    if engine == "torch":  # which compiles nothing
        hub.gate.clear()

    def stop(number: int) -> float:
        models = tmp_path / str(number)
        process = start(models, hub.url, ENGINE=engine, PYTHONPATH="", **NAMES)  # with all its processes its own
        wait_until(lambda: process.poll() is not None or bool(list(models.glob(moment))), 100)
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        wait_until(lambda: not _processes_of(models))
        assert not (models / "clip").exists()
        return time.monotonic() - started

    assert_in_time(2, stop)
    models = tmp_path / "0"
    hub.gate.set()
    with served(models, hub.url, ENGINE="torch", **NAMES) as (url, process):
        wait_for_ready(url, process)
    assert not (models / ".downloading").exists()


def test_the_download_is_told_while_it_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bake, "_PROGRESS_SECONDS", 0.01)
    threading.Thread(target=bake._print_progress, args=(tmp_path,), daemon=True).start()
    said = ""
    for size, words in ((3_000_000, "downloaded 3.0 MB so far"), (5_500_000, "downloaded 5.5 MB so far")):
        (tmp_path / "model.incomplete").write_bytes(bytes(size))
        deadline = time.monotonic() + 60
        while words not in said:
            assert time.monotonic() < deadline, said
            time.sleep(0.02)
            said += capfd.readouterr().out
    assert said.count("3.0 MB") == 1


def test_two_servers_on_one_folder_bake_it_once(hub: Hub, tmp_path: Path) -> None:
    models = tmp_path / "models"
    names = {**NAMES, "ENGINE": "torch"}
    with served(models, hub.url, **names) as (one, first), served(models, hub.url, **names) as (two, second):
        wait_for_ready(one, first)
        wait_for_ready(two, second)
        assert_like_reference(two, models)
    assert hub.downloads.count("model.safetensors") == 1


def _processes_of(models: Path) -> list[Path]:
    """Processes with the folder in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(models).encode() in path.read_bytes():
                found.append(path.parent)
        except OSError:
            continue
    return found
