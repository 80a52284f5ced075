"""A real Chromium on a real server."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from app.main import create_app
from app.settings import Settings
from app.towers import LoadedModel
from tests.page.browser import Browser
from tests.support.server import ROOT, free_port


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """Where a program of Debian's lies; without it the test is skipped, and fails where CI is set."""

    def find(name: str) -> str:
        found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if found:
            return found
        message = f"{name} is not installed: run tests/page/install.sh as root"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)

    return find


@pytest.fixture(scope="session")
def demo(serve: Callable[..., str]) -> str:
    return serve(ROOT / "demo" / "models")


@pytest.fixture(scope="session")
def serve_tiny(serve: Callable[..., str], tiny_models: Path) -> str:
    return serve(tiny_models)


@pytest.fixture(scope="session")
def chromium(program: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(program("chromium"), program("chromedriver"), tmp_path_factory.mktemp("profile"))
    yield browser
    browser.quit()


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """A new tab of the browser; fails if its console got an error that the test did not expect."""
    chromium.new_tab()
    yield chromium
    assert chromium.errors() == []


@pytest.fixture
def open_app() -> Iterator[Callable[..., str]]:
    """Serves create_app(Settings(**settings), load) in this process and gives its address before it is ready."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(load: Callable[[Settings], LoadedModel], **settings: Any) -> str:
        port = free_port()
        app = create_app(Settings(**settings), load, lambda: None)
        server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="critical"))
        thread = threading.Thread(target=server.run)
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{port}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path
