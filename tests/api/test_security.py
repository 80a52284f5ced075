"""Who may call, what is read, and what is written down."""

import base64
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from app.main import create_app
from app.settings import Settings
from tests.support.engine import FakeSession, fake_model
from tests.support.server import RunningApp, free_port, start_server, wait_for_ready
from tests.support.wire import connect, post, talk

RunApp = Callable[..., RunningApp]
TOKEN = "s3cret-t0ken"
OPEN = [
    ("GET", "/.well-known/live"),
    ("GET", "/.well-known/ready"),
    ("HEAD", "/.well-known/ready"),
    ("GET", "/health"),
    ("HEAD", "/health"),
    ("GET", "/"),
]
CLOSED = [
    ("POST", "/vectorize"),
    ("POST", "//vectorize/"),
    ("GET", "/meta"),
    ("GET", "/metrics"),
    ("GET", "/docs"),
    ("GET", "/redoc"),
    ("GET", "/openapi.json"),
    ("GET", "/nowhere"),
    ("GET", "/.well-known/other"),
    ("GET", "/.well-known/ready/../../meta"),
    ("GET", "/%2e/meta"),
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    settings = Settings(api_token=TOKEN + "\n", max_batch=4)
    with RunningApp(create_app(settings, fake_model(FakeSession()))) as running:
        yield running.url


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(("method", "path"), OPEN)
def test_health_and_the_page_are_open(url: str, method: str, path: str) -> None:
    assert httpx.request(method, url + path).status_code in (200, 204)


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_all_else_asks_for_the_token(url: str, method: str, path: str) -> None:
    answer = httpx.request(method, url + path, content=b"{}" if method == "POST" else None)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "token" in answer.json()["error"]


@pytest.mark.parametrize(
    "given", [f"Bearer {TOKEN}", f"bearer  {TOKEN}", basic("user", TOKEN), basic("", TOKEN), basic("us er", TOKEN)]
)
def test_the_token_opens(url: str, given: str) -> None:
    headers = {"Authorization": given.encode()}
    assert httpx.post(f"{url}/vectorize", json={"texts": ["1"]}, headers=headers).status_code == 200
    assert httpx.get(f"{url}/meta", headers=headers).status_code == 200
    assert httpx.get(f"{url}/openapi.json", headers=headers).json()["paths"]


@pytest.mark.parametrize(
    "given",
    [
        "",
        "Bearer",
        "Bearer wrong",
        TOKEN,
        f"Token {TOKEN}",
        f"Bearer {TOKEN}x",
        "Basic !!!",
        "Basic " + "x" * 999,
        basic("user", "wrong"),
        basic(TOKEN, ""),
        basic(TOKEN, "user"),
        "Basic " + base64.b64encode(TOKEN.encode()).decode(),
    ],
)
def test_nothing_else_opens(url: str, given: str) -> None:
    headers = {"Authorization": given.encode()}
    assert httpx.post(f"{url}/vectorize", json={"texts": ["1"]}, headers=headers).status_code == 401


def test_the_user_and_password_of_an_address_open(url: str) -> None:
    address = url.replace("http://", f"http://user:{TOKEN}@")
    assert httpx.post(f"{address}/vectorize", json={"texts": ["1"]}).status_code == 200


def test_a_trailer_is_no_token(url: str) -> None:
    body = b'{"texts": ["1"]}'
    request = b"POST /vectorize HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body) + body
    assert talk(url, request + f"\r\n0\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())[0] == 401


def test_without_a_token_nothing_is_asked_for(run_app: RunApp) -> None:
    running = run_app(fake_model(FakeSession()), max_batch=4)
    assert httpx.get(f"{running.url}/meta").status_code == 200
    assert httpx.get(f"{running.url}/meta", headers={"Authorization": "Bearer whatever"}).status_code == 200


def test_the_token_is_not_shown() -> None:
    assert "s3cret" not in repr(Settings(api_token=TOKEN)) + str(Settings(api_token=TOKEN))


SECRET = "Zebrafinch7731"


def test_nothing_of_an_input_is_written_to_the_log(workers: int) -> None:
    port = free_port()
    process = start_server(Path("demo/models"), workers=workers, PORT=str(port), API_TOKEN="")
    url = f"http://127.0.0.1:{port}"
    wait_for_ready(url, process)
    secret = SECRET.encode()
    encoded = base64.b64encode(secret * 9).decode()
    for payload in (
        {"texts": [SECRET, SECRET * 1000]},
        {"images": [SECRET]},
        {"images": [encoded]},
        {"images": ["data:image/png;base64," + encoded]},
        {SECRET: SECRET, "texts": [1]},
        {"text": [SECRET]},
    ):
        httpx.post(f"{url}/vectorize?{SECRET}", json=payload, headers={"X-Secret": SECRET, "User-Agent": SECRET})
    for body in (b'{"texts": ["' + secret, b'{"texts": ["' + secret + b'\xff"]}', b'{"' + secret + b'\\ud800": 1}'):
        httpx.post(f"{url}/vectorize", content=body)
    httpx.get(f"{url}/{SECRET}")
    for data in (secret + b" / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n" + secret + b"\r\n\r\n"):
        talk(url, data)
    with connect(url) as sock:
        sock.sendall(post(secret * 9)[:-5])
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert "ready" in said
    assert SECRET not in said and "Traceback" not in said
