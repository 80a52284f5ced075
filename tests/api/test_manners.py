"""What HTTP asks of a server beside its answers: methods, paths, health, and who speaks another protocol."""

import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from app.main import create_app
from app.settings import Settings
from app.towers import LoadedModel
from tests.support.engine import FakeSession, fake_model
from tests.support.server import RunningApp, wait_for_ready
from tests.support.wire import connect, read_answer, talk

RunApp = Callable[..., RunningApp]

METHODS = {
    "/": "GET, HEAD",
    "/page/main.js": "GET, HEAD",
    "/page/none.js": "GET, HEAD",
    "/about": "GET",
    "/meta": "GET",
    "/metrics": "GET",
    "/health": "GET, HEAD",
    "/.well-known/live": "GET, HEAD",
    "/.well-known/ready": "GET, HEAD",
    "/openapi.json": "GET, HEAD",
    "/vectorize": "POST",
    "/vectorize/": "POST",
    "/v1/embeddings": "POST",
    "/v1/models": "GET",
    "/v1/models/any": "GET",
}


@pytest.fixture(scope="module")
def url(serve: Callable[..., str]) -> str:
    return serve(Path("demo/models"), ENABLE_EMBEDDINGS_API="1")


@pytest.mark.parametrize("path", METHODS)
def test_405_names_the_methods_of_the_path(url: str, path: str) -> None:
    allowed = METHODS[path].split(", ")
    for method in ("DELETE", "GET", "OPTIONS", "PATCH", "POST", "PROPFIND", "PUT", "TRACE"):
        if method in allowed:
            continue
        answer = httpx.request(method, url + path)
        assert answer.status_code == 405
        assert answer.headers["allow"] == METHODS[path]
        assert f"this path takes {METHODS[path]}" in answer.text
    for method in allowed:
        assert httpx.request(method, url + path).status_code != 405


@pytest.mark.parametrize("path", ["/vectors", "/vectors/", "/v1/vectors", "/vector", "/vectorise/vectors"])
def test_what_is_nearly_the_path_is_told_the_right_one(url: str, path: str) -> None:
    answer = httpx.post(url + path, json={"text": "a red star"})
    assert answer.status_code == 404
    assert 'send {"texts": […], "images": […]} to POST /vectorize' in str(answer.json())


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/docs/oauth2-redirect"])
def test_no_page_loads_anything_from_another_host(url: str, path: str) -> None:
    answer = httpx.get(url + path)
    assert answer.status_code == 404
    assert "GET /openapi.json" in answer.json()["error"]
    assert httpx.get(f"{url}/openapi.json").json()["openapi"]


def test_health_is_200_when_ready_and_else_503_with_the_reason() -> None:
    loaded = threading.Event()

    def load(settings: Settings) -> LoadedModel:
        assert loaded.wait(60)
        return fake_model(FakeSession())(settings)

    app = RunningApp(create_app(Settings(text_batch=4, image_batch=4), load, lambda: None))
    with app.served():
        for method in ("GET", "HEAD"):
            assert httpx.request(method, f"{app.url}/health").status_code == 503
        answer = httpx.get(f"{app.url}/health/")
        assert answer.json()["error"].startswith("the model is still loading")
        assert int(answer.headers["retry-after"]) >= 1
        loaded.set()
        wait_for_ready(app.url)
        assert httpx.get(f"{app.url}/health").json() == {"status": "ready"}
        assert httpx.head(f"{app.url}/health").status_code == 200
        assert httpx.post(f"{app.url}/vectorize", json={"texts": ["broken"]}).status_code == 503
        answer = httpx.get(f"{app.url}/health")
        assert (answer.status_code, answer.json()) == (503, {"error": "the device failed"})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", "no HTTP/2"),
        (b"PROXY TCP4 10.0.0.1 10.0.0.2 5000 80\r\nGET /meta HTTP/1.1\r\nHost: a\r\n\r\n", "no PROXY protocol"),
        (b"PROXY UNKNOWN\r\nGET /meta HTTP/1.1\r\nHost: a\r\n\r\n", "no PROXY protocol"),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0GET /meta HTTP/1.1\r\nHost: a\r\n\r\n", "no PROXY protocol"),
        (b"\x16\x03\x01\x02\0\1\0\1\xfc\x03\x03", "plain HTTP, not TLS"),
    ],
)
def test_another_protocol_is_refused_in_words(
    url: str, run_app: RunApp, caplog: pytest.LogCaptureFixture, data: bytes, words: str
) -> None:
    status, _, body = talk(url, data)
    assert status == 400 and words in body["error"]
    app = run_app(fake_model(FakeSession()), text_batch=4, image_batch=4)
    with caplog.at_level("INFO", logger="app.api.protocol"), connect(app.url) as sock:
        sock.sendall(data)
        read_answer(sock)
    assert any(words in line for line in caplog.messages)


def test_a_client_that_speaks_tls_gets_an_error_and_others_their_answers(url: str) -> None:
    with pytest.raises(ssl.SSLError), connect(url) as sock:
        ssl.create_default_context().wrap_socket(sock, server_hostname="localhost")
    assert httpx.get(f"{url}/meta").status_code == 200
