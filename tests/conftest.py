"""A real server on a real port.

What loads torch or transformers is imported where it is used: the process that hands out the tests to others needs
neither, and they start when it is ready.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import hypothesis
import pytest
from xdist.scheduler import LoadFileScheduling

from tests.support.warm_python import warm_python

if TYPE_CHECKING:
    import numpy as np

    from app.settings import Settings
    from app.towers import LoadedModel
    from tests.support.families import Case
    from tests.support.server import RunningApp

# With how many front processes the tests of tests/api and tests/serving try a server in a process of its own.
WORKERS = (1, 3)

# Before anything loads torch, here and in what is started from here: its threads would spin while they wait for each
# other, and several processes that do so on a few cores need ten times the time.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A client of httpx reads the machine's certificates, 25 ms each time; the tests make thousands for plain HTTP.
_transports: Any = httpx._transports.default  # type: ignore[attr-defined]
_transports.create_ssl_context = functools.cache(_transports.create_ssl_context)

# A check of a change fails for the change, not for the example that was drawn that day; elsewhere new ones are drawn.
# How long an example takes is the machine's.
hypothesis.settings.register_profile(
    "tests",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("tests")

# Folders whose tests are tried with each of WORKERS, but for those marked `served_once`; files that processes share
# family by family; and the folders with the longest files.
SERVED = ("api", "serving")
PARTED = "/families/test_families.py"
LONGEST = ("engines", "families", "models")


def pytest_collection_finish() -> None:
    """Torch's many objects stay; looking through them again and again takes a tenth of what is compiled here."""
    gc.freeze()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What asks a server in a process of its own asks it with each number of front processes."""
    if (
        "workers" in metafunc.fixturenames
        and metafunc.definition.path.parent.name in SERVED
        and not metafunc.definition.get_closest_marker("served_once")
    ):
        metafunc.parametrize("workers", WORKERS, indirect=True, scope="session", ids=lambda n: f"workers={n}")


class ByFileAndCase(LoadFileScheduling):
    """Gives a process a whole file, or of a file of many families the tests of one."""

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        if not file.endswith(PARTED):
            return file
        case = test.partition("[")[2].rstrip("]").partition("-")[0]
        return f"{file}[{case}]"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    return ByFileAndCase(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that no process is left with one of them at the end."""
    items.sort(key=lambda item: item.path.parent.name not in LONGEST)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair that nobody changes; processes that test side by side share it, and what a server compiles of it."""
    from tests.support.tiny import clip_pair

    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return clip_pair(base / "tiny")
    base = base.parent
    with (base / "tiny.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (base / "tiny").exists():
            clip_pair(base / "tiny.making").rename(base / "tiny")
    return base / "tiny"


@pytest.fixture
def compile_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process compiles is compiled by a Python that has loaded torch already."""
    monkeypatch.setattr(sys, "executable", warm_python())


@pytest.fixture(scope="session")
def workers(request: pytest.FixtureRequest) -> int:
    """How many front processes the servers of `serve` have."""
    return int(getattr(request, "param", 1))


@pytest.fixture(scope="session")
def _serve() -> Iterator[Callable[..., str]]:
    from tests.support.server import PROCESSES, free_port, start_server, wait_for_ready

    running: list[subprocess.Popen[str]] = []
    shared: dict[tuple[object, ...], tuple[str, subprocess.Popen[str]]] = {}

    def start(models: Path, workers: int, *, measured: bool = False, **env: str) -> str:
        key = (models.resolve(), workers, *sorted(env.items()))
        if not measured and key in shared and shared[key][1].poll() is None:
            return shared[key][0]
        port = free_port()
        process = start_server(models, measured=measured, workers=workers, PORT=str(port), **env)
        running.append(process)
        url = f"http://127.0.0.1:{port}"
        if measured:
            PROCESSES[url] = process
        wait_for_ready(url, process)
        if not measured:
            shared[key] = url, process
        return url

    yield start
    for process in running:
        process.terminate()
    for process in running:
        assert process.wait(25) == 0


@pytest.fixture(scope="session")
def serve(_serve: Callable[..., str], workers: int) -> Callable[..., str]:
    """Starts a server and gives its address once it is ready; equal ones that nobody measures are one server."""

    def start(models: Path, *, measured: bool = False, **env: str) -> str:
        return _serve(models, workers, measured=measured, **env)

    return start


@pytest.fixture(scope="session")
def offline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of a server that cannot connect anywhere but to this machine, and whose hub is not there."""
    folder = tmp_path_factory.mktemp("offline")
    (folder / "sitecustomize.py").write_text(
        "import socket\n"
        "def refuse(self, address, connect):\n"
        "    if self.family != socket.AF_UNIX and not str(address[0]).startswith(('127.', '::1')):\n"
        "        raise PermissionError(f'this test refuses a connection to {address}')\n"
        "    return connect(self, address)\n"
        "for name in ('connect', 'connect_ex'):\n"
        "    original = getattr(socket.socket, name)\n"
        "    setattr(socket.socket, name, lambda self, address, c=original: refuse(self, address, c))\n"
    )
    return {"PYTHONPATH": str(folder), "HF_ENDPOINT": "http://127.0.0.1:9"}


@pytest.fixture(scope="session", params=["openvino", "torch"])
def server(request: pytest.FixtureRequest, serve: Callable[..., str], tiny_models: Path) -> str:
    return serve(tiny_models, ENGINE=request.param)


@pytest.fixture(scope="module")
def hub(case: Case, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The models of a module's `case`, by their names on the hub."""
    return case.make(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def baked(case: Case, hub: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which download.py baked them."""
    from tests.support.families import bake

    models = tmp_path_factory.mktemp("baked") / "models"
    bake(case, hub, models)
    return models


@pytest.fixture(scope="module")
def reference(case: Case, hub: dict[str, Path]) -> tuple[np.ndarray, np.ndarray]:
    """The vectors of TEXTS and pictures() that the family's own library gives."""
    from tests.support.families import reference_vectors

    return reference_vectors(case, hub)


@pytest.fixture
def run_app() -> Iterator[Callable[..., RunningApp]]:
    """Serves create_app(Settings(**settings), load) in this process."""
    from app.main import create_app
    from app.settings import Settings
    from tests.support.server import RunningApp

    with contextlib.ExitStack() as stack:

        def run(
            load: Callable[[Settings], LoadedModel], compute_timeout: float = 120.0, **settings: Any
        ) -> RunningApp:
            failures: list[str] = []
            app = create_app(
                Settings(**settings), load, lambda: failures.append("failed"), compute_timeout=compute_timeout
            )
            running = stack.enter_context(RunningApp(app))
            running.failures = failures
            return running

        yield run
