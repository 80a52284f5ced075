"""Behind a proxy, a token, and a model that still loads."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from selenium.webdriver import Keys

from app.models.load import load_model
from app.settings import Settings
from app.towers import LoadedModel
from tests.page.browser import Browser
from tests.page.pictures import draw
from tests.support.server import ROOT, free_port

NGINX = """
daemon off;
pid {folder}/pid;
error_log stderr warn;
events {{}}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    client_max_body_size 100k;
    location {location} {{ proxy_pass {upstream}/; {extra} }}
  }}
}}
"""


@pytest.fixture
def proxy(program: Callable[[str], str], tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Starts an nginx that strips /clip/ on the way to a server, and gives the address below it."""
    running: list[subprocess.Popen[bytes]] = []

    def start(upstream: str, extra: str = "", location: str = "/clip/") -> str:
        port = free_port()
        config = tmp_path / "nginx.conf"
        config.write_text(NGINX.format(folder=tmp_path, port=port, upstream=upstream, extra=extra, location=location))
        running.append(subprocess.Popen([program("nginx"), "-e", "stderr", "-p", tmp_path, "-c", config]))
        httpx.Client(transport=httpx.HTTPTransport(retries=8)).get(f"http://127.0.0.1:{port}/")
        return f"http://127.0.0.1:{port}/clip/"

    yield start
    for process in running:
        process.terminate()
        process.wait(25)


def test_below_a_path_of_a_proxy(browser: Browser, demo: str, proxy: Callable[..., str], tmp_path: Path) -> None:
    url = proxy(demo)
    browser.open(url.removesuffix("/"))
    browser.until(lambda: len(browser.numbers()) == 25)
    assert browser.run("return location.href") == url
    assert browser.errors() == []
    loaded = browser.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert len(loaded) > 15
    assert [name for name in loaded if not name.startswith((url, f"blob:{url.removesuffix('/clip/')}/"))] == []
    # A proxy's own refusal is no JSON; it stands at its picture all the same.
    large = tmp_path / "large.png"
    large.write_bytes(draw(tmp_path / "small.png", "star", "red", "white").read_bytes() + bytes(150_000))
    browser.drop(large)
    browser.until(lambda: browser.all(".picture.failed"))
    assert "larger than a proxy" in browser.text(".picture.failed .fault")
    browser.click(".vector .copies button:last-child")
    browser.until(lambda: browser.text("#toast") == "Command copied")
    assert browser.clipboard().startswith(f"curl '{url}vectorize'")
    browser.errors()


def test_below_a_path_without_its_last_slash_the_page_moves_there(
    browser: Browser, demo: str, proxy: Callable[..., str]
) -> None:
    url = proxy(demo, location="/clip")
    assert httpx.get(url.removesuffix("/")).status_code == 200  # a proxy that does not move anybody itself
    browser.open(f"{url.removesuffix('/')}?a=1#gallery")
    browser.until(lambda: browser.text("#state") == "Ready")
    assert browser.run("return location.href") == f"{url}?a=1#gallery"
    browser.until(lambda: len(browser.all(".vector")) == 10)
    browser.errors()


def test_a_proxy_that_takes_the_slash_away_again_is_no_circle(
    browser: Browser, demo: str, proxy: Callable[..., str]
) -> None:
    url = proxy(demo, "rewrite ^/clip/$ /clip redirect;", "/clip")
    browser.open(url.removesuffix("/"))
    browser.until(lambda: browser.run("return document.readyState") == "complete")
    before = browser.run("return performance.timeOrigin")
    time.sleep(1)
    assert browser.run("return performance.timeOrigin") == before
    browser.errors()


def test_nothing_is_asked_of_another_host(browser: Browser, demo: str) -> None:
    browser.open(demo)
    browser.until(lambda: len(browser.numbers()) == 25)
    loaded = browser.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in loaded if not name.startswith((f"{demo}/", f"blob:{demo}/"))] == []


def test_a_token_is_asked_for_once_and_kept_for_the_tab(browser: Browser, serve: Callable[..., str]) -> None:
    browser.open(serve(ROOT / "demo" / "models", API_TOKEN="s3cret"))
    browser.until(lambda: browser.one("#token-dialog").is_displayed())
    browser.type("#token", "wrong")
    browser.click("#token-form [type=submit]")
    browser.until(lambda: "does not accept" in browser.text("#token-error"))
    browser.type("#token", "s3cret")
    browser.click("#token-form [type=submit]")
    browser.until(lambda: len(browser.numbers()) == 25)
    browser.errors()
    # The command takes it from a variable, so that it is not pasted anywhere by mistake.
    browser.click(".vector .copies button:last-child")
    browser.until(lambda: browser.text("#toast") == "Command copied")
    command = browser.clipboard()
    assert "$TOKEN" in command
    assert "s3cret" not in command
    environment = {**os.environ, "TOKEN": "s3cret"}
    answer = subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert '"imageVectors":[[' in answer
    browser.driver.refresh()
    browser.until(lambda: len(browser.numbers()) == 25)
    assert not browser.one("#token-dialog").is_displayed()
    browser.click("#token-button")
    browser.type("#token", "two words")
    browser.click("#token-form [type=submit]")
    browser.until(lambda: "no blanks" in browser.text("#token-error"))
    browser.keys(Keys.ESCAPE)
    browser.until(lambda: not browser.one("#token-dialog").is_displayed())


def test_who_has_no_token_is_told_and_asked_again_by_the_items(browser: Browser, serve: Callable[..., str]) -> None:
    browser.open(serve(ROOT / "demo" / "models", API_TOKEN="s3cret"))
    browser.until(lambda: browser.one("#token-dialog").is_displayed())
    browser.click("#token-cancel")
    browser.until(lambda: "a token is needed" in browser.text("#state"))
    browser.type("#new-text", "a red star\n")
    browser.until(lambda: browser.one("#token-dialog").is_displayed())
    browser.type("#token", "s3cret\n")
    browser.until(lambda: len(browser.all(".vector")) == 1)
    browser.until(lambda: "coloured-shapes" in browser.text(".facts"))
    assert browser.text("#state") == "Ready"
    browser.errors()


def test_a_page_opened_while_the_model_loads_waits_for_it(browser: Browser, open_app: Callable[..., Any]) -> None:
    go_on = threading.Event()

    def load(settings: Settings) -> LoadedModel:
        assert go_on.wait(60)
        return load_model(settings)

    url = open_app(load, models_dir=ROOT / "demo" / "models")
    browser.open(url)
    browser.until(lambda: browser.text("#state") == "The model is still loading; try again in a moment")
    assert browser.numbers() == []
    go_on.set()
    browser.until(lambda: len(browser.numbers()) == 25)
    assert browser.text("#state") == "Ready"
    browser.errors()


def test_a_server_that_is_gone_is_said_to_be_and_can_be_tried_again(
    browser: Browser, demo: str, proxy: Callable[..., str], folder: Path
) -> None:
    port = free_port()
    url = proxy(demo)
    browser.open_empty(url)
    browser.run(f"window.realFetch = fetch; window.fetch = () => realFetch('http://127.0.0.1:{port}/')")
    browser.drop(draw(folder / "p.png", "star", "red", "white"))
    browser.until(lambda: browser.all(".picture.failed"))
    assert "the server does not answer" in browser.text(".picture.failed .fault")
    assert browser.text("#state") == "The server does not answer"
    browser.run("window.fetch = realFetch")
    browser.click(".picture.failed .fault button")
    browser.until(lambda: len(browser.all(".vector")) == 1)
    assert browser.text("#state") == "Ready"
    browser.errors()
