"""The rule by which Weaviate's client sends a request again, as the stand-in's client has it."""

import re
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.support.weaviate_client import GoClient, ModuleError

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Length: 42\r\n\r\n{"textVectors": [[1]], "imageVectors": []}'


def request_on(connection: socket.socket) -> bytes:
    """A whole request: head and body."""
    data = b""
    while not (length := re.search(rb"Content-Length: (\d+)\r\n", data)) or b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    while len(data.partition(b"\r\n\r\n")[2]) < int(length[1]):
        data += connection.recv(65536)
    return data


@pytest.fixture
def scripted() -> Iterator[Callable[..., str]]:
    """A server that gives each connection its answers, one a request, and then closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)

        def run(connections: tuple[list[bytes], ...]) -> None:
            for answers in connections:
                connection, _ = listener.accept()
                with connection:
                    for answer in answers:
                        request_on(connection)
                        connection.sendall(answer)

        def start(*connections: list[bytes]) -> str:
            thread.append(threading.Thread(target=run, args=(connections,)))
            thread[0].start()
            return f"http://127.0.0.1:{listener.getsockname()[1]}"

        thread: list[threading.Thread] = []
        yield start
        thread[0].join()


def test_a_kept_connection_that_breaks_before_an_answer(scripted: Callable[..., str]) -> None:
    client = GoClient(scripted([ANSWER, b""], [ANSWER]))
    for _ in range(2):
        client.vectorize(["text"], [])
    assert (client.dialled, client.reused, client.resent) == (2, 1, 1)


def test_a_fresh_connection_that_breaks(scripted: Callable[..., str]) -> None:
    client = GoClient(scripted([b""]))
    with pytest.raises(ModuleError, match=r'^send POST request: Post "http://[0-9.:]+/vectorize": EOF$'):
        client.vectorize(["text"], [])
    assert client.resent == 0


def test_a_second_try_on_a_fresh_connection_is_the_last(scripted: Callable[..., str]) -> None:
    client = GoClient(scripted([ANSWER, b""], [b""]))
    client.vectorize(["text"], [])
    with pytest.raises(ModuleError, match="EOF"):
        client.vectorize(["text"], [])
    assert client.resent == 1


def test_a_connection_that_breaks_in_an_answer(scripted: Callable[..., str]) -> None:
    client = GoClient(scripted([ANSWER, ANSWER[:-9]]))
    client.vectorize(["text"], [])
    with pytest.raises(ModuleError, match=r"read response body: unexpected EOF"):
        client.vectorize(["text"], [])
    assert client.resent == 0


def test_a_connection_that_was_closed_while_it_was_idle_costs_nothing(scripted: Callable[..., str]) -> None:
    client = GoClient(scripted([ANSWER], [ANSWER]))
    client.vectorize(["text"], [])
    threading.Event().wait(0.1)
    client.vectorize(["text"], [])
    assert (client.dialled, client.reused, client.resent) == (2, 0, 0)


def test_user_and_password_go_along_with_every_call() -> None:
    seen = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                seen.append(request_on(connection))
                connection.sendall(ANSWER)

        thread = threading.Thread(target=run)
        thread.start()
        GoClient(f"http://user:s%20ecret@127.0.0.1:{listener.getsockname()[1]}").vectorize(["text"], [])
        thread.join()
    assert b"\r\nAuthorization: Basic dXNlcjpzIGVjcmV0\r\n" in seen[0]
