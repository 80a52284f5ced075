"""The log: one form, one line an error, whose request it was, and nothing of what was sent."""

import io
import json
import logging
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from app import logs
from app.logs import JSONFormatter, PlainFormatter, Throttle
from tests.support.server import free_port, start_server, wait_for_ready


def record(message: str, *args: object, exc: BaseException | None = None) -> logging.LogRecord:
    info = (type(exc), exc, exc.__traceback__) if exc else None
    return logging.LogRecord("app.test", logging.ERROR, "file", 1, message, args, info)


def log_of(models: Path, ask: Callable[[str], None], **env: str) -> list[str]:
    """The lines that a server logs while `ask` talks to it."""
    port = free_port()
    process = start_server(models, PORT=str(port), **env)
    try:
        wait_for_ready(f"http://127.0.0.1:{port}", process)
        ask(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        _, log = process.communicate(timeout=60)
    return str(log).splitlines()


def ask_all_kinds(url: str) -> None:
    for path in ("live", "ready"):
        httpx.get(f"{url}/.well-known/{path}")
    answer = httpx.post(f"{url}/vectorize", json={"texts": ["a secret text"]}, headers={"X-Request-ID": "good-1"})
    assert answer.headers["x-request-id"] == "good-1"
    payload = {"images": ["a secret picture"]}
    answer = httpx.post(f"{url}/vectorize", json=payload, headers={"X-Request-ID": "bad-1"})
    assert answer.status_code == 422 and answer.headers["x-request-id"] == "bad-1"
    forged = httpx.post(f"{url}/vectorize", json=payload, headers={"X-Request-ID": "a b\tc"})
    assert re.fullmatch("[0-9a-f]{32}", forged.headers["x-request-id"])
    assert httpx.get(f"{url}/no%0Awhere", headers={"X-Request-ID": "lost-1"}).status_code == 404
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 10) as client:
        client.sendall(b"a secret in no HTTP\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 400")


def test_plain_lines(tiny_models: Path) -> None:
    lines = log_of(tiny_models, ask_all_kinds)
    form = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (INFO|WARNING) [a-z0-9_.]+( \[[!-~]+\])?: .+")
    assert all(form.fullmatch(line) for line in lines), lines
    (start,) = [line for line in lines if "ready: " in line]
    for word in ("version", "family", "engine", "width", "folder", "threads", "budget", "seconds to ready"):
        assert word in start
    (error,) = [line for line in lines if "[bad-1]" in line]
    assert "POST /vectorize: 422, images[0]" in error
    (lost,) = [line for line in lines if "[lost-1]" in line]
    assert "GET another path: 404, there is no such path" in lost
    (refused,) = [line for line in lines if "app.api.protocol" in line]
    assert "a connection is refused: 400, the request is not valid HTTP" in refused
    assert not any("secret" in line or "well-known" in line or "good-1" in line for line in lines)


def test_json_lines(tiny_models: Path) -> None:
    lines = [json.loads(line) for line in log_of(tiny_models, ask_all_kinds, LOG_FORMAT="json")]
    (start,) = [line for line in lines if line["message"].startswith("ready: ")]
    assert start["width"] == 16 and start["family"] == "sentence-transformers"
    (error,) = [line for line in lines if line.get("request_id") == "bad-1"]
    assert error["level"] == "info" and "images[0]" in error["message"]


def test_who_has_no_token_is_one_line(tiny_models: Path) -> None:
    def ask(url: str) -> None:
        assert httpx.post(f"{url}/vectorize", json={"texts": ["a"]}, auth=("user", "a secret")).status_code == 401

    lines = log_of(tiny_models, ask, API_TOKEN="another")
    (line,) = [line for line in lines if "401" in line]
    assert "POST /vectorize: 401, a token is needed" in line
    assert not any("secret" in line or "another" in line for line in lines)


def test_log_level(tiny_models: Path) -> None:
    assert log_of(tiny_models, ask_all_kinds, LOG_LEVEL="WARNING") == []


def test_nothing_moves_the_cursor_or_forges_a_line() -> None:
    evil = "a\nb\r\x1b[2J\u2028c\ud800"
    try:
        raise ValueError(evil)
    except ValueError as error:
        line = PlainFormatter().format(record("got %s", evil, exc=error))
    assert "got a\\nb\\r\\x1b[2J\\u2028c\\ud800" in line
    assert all(c.isprintable() or c == "\n" for c in line)
    assert json.loads(JSONFormatter().format(record("got %s", evil)))["message"] == f"got {evil}"


def test_a_flood_is_cut_and_counted() -> None:
    throttle = Throttle(most=3)
    records = [record("line %d", n) for n in range(100)]
    for each in records:
        each.created = 5.0
    assert sum(throttle.filter(each) for each in records) == 3
    later = record("later")
    later.created = 6.0
    assert throttle.filter(later) and later.getMessage() == "later (97 lines like this were left out)"


@pytest.fixture
def configured() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    logs.configure("plain", "info")
    stream = io.StringIO()
    root.handlers[0].stream = stream  # type: ignore[attr-defined]
    yield stream
    root.handlers = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def test_libraries_and_uvicorn_log_in_the_same_form(configured: io.StringIO) -> None:
    logging.getLogger("uvicorn.error").error("an error of uvicorn")
    logging.getLogger("a_library").warning("a warning")
    logging.getLogger("a_library").info("not this")
    lines = configured.getvalue().splitlines()
    assert [line.split("Z ", 1)[1] for line in lines] == [
        "ERROR uvicorn.error: an error of uvicorn",
        "WARNING a_library: a warning",
    ]
