"""A real Chromium on a real server."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from app.main import create_app
from app.settings import Settings
from app.towers import LoadedModel
from tests.page.browser import Browser
from tests.support.server import ROOT, RunningApp


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
    with ExitStack() as running:

        def start(load: Callable[[Settings], LoadedModel], **settings: Any) -> str:
            app = RunningApp(create_app(Settings(**settings), load, lambda: None))
            running.enter_context(app.served())
            return app.url

        yield start


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path
