"""requirements/install.py: where torch and torchvision come from, with an index and wheels made here."""

import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.requirements import CONSTRAINTS, pins
from tests.support.server import ROOT

BUILD_FOR_CPU, FITTING, NOT_FITTING = "+cpu", "", "raise RuntimeError('operator torchvision::nms does not exist')"


def wheel(folder: Path, name: str, build: str, code: str = "") -> None:
    """A package of the pinned version that runs `code` when it is imported."""
    (version,) = pins(CONSTRAINTS)[name]
    info = f"{name}-{version}{build}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}{build}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}/__init__.py", code)
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}{build}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


class Index:
    """A package index on loopback: a folder for each package."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: set[str] = set()
        index = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                index.asked.add(self.path.split("/")[1])
                super().do_GET()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever).start()

    def offer(self, name: str, build: str, code: str = "") -> None:
        (self.folder / name).mkdir()
        wheel(self.folder / name, name, build, code)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    (tmp_path / "index").mkdir()
    index = Index(tmp_path / "index")
    yield index
    index.server.shutdown()


class Environment:
    """A new virtual environment whose pip knows no more than the tests tell it, and reaches loopback alone."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
        self.python = folder / "venv" / "bin" / "python"
        self.family = folder / "openclip.txt"  # a file of this name needs torchvision
        self.family.write_text("")

    def install(self, **environment: str) -> int:
        known = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "TORCH_"))}
        nobody = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9") | {"no_proxy": "127.0.0.1"}
        command = [str(self.python), str(ROOT / "requirements" / "install.py"), str(self.family)]
        return subprocess.run(
            command,
            env={
                **known,
                **nobody,
                "PIP_CONFIG_FILE": os.devnull,
                "PIP_DISABLE_PIP_VERSION_CHECK": "1",
                **environment,
            },
        ).returncode

    def version(self, name: str) -> str | None:
        code = f"import importlib.metadata as m; print(m.version({name!r}))"
        result = subprocess.run([self.python, "-c", code], capture_output=True, text=True)
        return result.stdout.strip() or None


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path)


def test_both_come_from_torch_index(environment: Environment, index: Index) -> None:
    index.offer("torch", BUILD_FOR_CPU)
    index.offer("torchvision", BUILD_FOR_CPU, FITTING)
    assert environment.install(TORCH_INDEX=index.url, PIP_INDEX_URL="http://127.0.0.1:9") == 0
    assert [str(environment.version(name))[-4:] for name in ("torch", "torchvision")] == ["+cpu", "+cpu"]
    assert index.asked == {"torch", "torchvision"}


def test_a_torch_at_hand_is_taken_and_a_torchvision_that_does_not_fit_it_is_not(
    environment: Environment, index: Index, tmp_path: Path
) -> None:
    wheel(tmp_path, "torch", BUILD_FOR_CPU)
    index.offer("torch", "")
    index.offer("torchvision", "", NOT_FITTING)
    assert environment.install(PIP_INDEX_URL=index.url, PIP_FIND_LINKS=str(tmp_path)) == 2
    assert str(environment.version("torch")).endswith("+cpu") and environment.version("torchvision") is None


def test_without_any_the_package_index_gives_both(environment: Environment, index: Index) -> None:
    index.offer("torch", "")
    index.offer("torchvision", "", FITTING)
    assert environment.install(PIP_INDEX_URL=index.url) == 0
    assert {environment.version("torch")} == pins(CONSTRAINTS)["torch"]
    assert {environment.version("torchvision")} == pins(CONSTRAINTS)["torchvision"]
