"""One server with the demo model for this folder, and a Weaviate before it."""

import copy
import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.example import User, run_script
from tests.support.held_out import HeldOut, draw_held_out
from tests.support.server import ROOT, free_port, start_server
from tests.support.weaviate_client import GoClient
from tests.support.weaviate_module import Module
from tests.support.weaviate_standin import Standin
from tests.support.weaviate_start import Start, Started, started

PICTURES = 120


@pytest.fixture(scope="session")
def service() -> Iterator[Started]:
    with started(ROOT / "demo/models") as server:
        yield server


@pytest.fixture(scope="session")
def container(service: Started) -> str:
    return service.url


@pytest.fixture(scope="session")
def module(container: str) -> Module:
    return Module(GoClient(container), at_once=2 * (os.cpu_count() or 1))


@pytest.fixture(scope="session")
def held_out() -> HeldOut:
    return draw_held_out(300)


@pytest.fixture
def standin(container: str) -> Iterator[Standin]:
    with closing(Standin(container)) as standin:
        yield standin


@pytest.fixture
def user(standin: Standin, tmp_path: Path) -> User:
    return User(tmp_path, standin.env)


@pytest.fixture(scope="session")
def documented_class(container: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What create_collection.py sends."""
    with closing(Standin(container)) as standin:
        User(tmp_path_factory.mktemp("user"), standin.env).run("create_collection.py")
        [sent] = [body for method, path, body in standin.requests if (method, path) == ("POST", "/v1/schema")]
    return sent


@pytest.fixture
def importer(standin: Standin, user: User, documented_class: dict[str, Any]) -> User:
    """A user whose collection is there."""
    standin.store.create(copy.deepcopy(documented_class))
    return user


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of drawn pictures, with pictures.csv and a folder of queries."""
    folder = tmp_path_factory.mktemp("drawn")
    result = run_script("draw_pictures.py", "--count", str(PICTURES), env={}, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "shapes"


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a server with the demo model; its port and process."""
    processes: list[subprocess.Popen[str]] = []

    def start(**env: str) -> tuple[int, subprocess.Popen[str]]:
        processes.append(start_server(ROOT / "demo/models", PORT=str(port := free_port()), **env))
        return port, processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()
