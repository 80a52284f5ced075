"""What the example's import does while Weaviate or its container is away."""

import re
import threading
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from tests.support.example import SCRIPTS, User, pictures_of
from tests.support.server import ROOT, free_port, start_server, wait_for_ready
from tests.support.weaviate_standin import Standin

NOBODY = f"http://127.0.0.1:{free_port()}"

POST = 'send POST request: Post "http://clip:8080/vectorize": '

REASONS = {
    f"{POST}dial tcp 10.0.0.7:8080: connect: connection refused": "away",
    f"{POST}dial tcp: lookup clip: no such host": "away",
    f"{POST}proxyconnect tcp: dial tcp 10.0.0.1:3128: i/o timeout": "away",
    "fail with status 503: too many large requests wait": "away",
    "failed to parse vectorization response (status 502): invalid character '<'": "away",
    "The request to Weaviate failed after 3 retries. Last exception: status = StatusCode.UNAVAILABLE": "away",
    f"{POST}after 3 attempts: EOF": "unclear",
    f"{POST}context deadline exceeded": "unclear",
    "Deadline Exceeded": "unclear",
    "read response body: unexpected EOF": "unclear",
    "fail with status 500: the engine failed": "unclear",
    "fail with status 422: images[0]: is a broken picture": "final",
    "fail with status 413: the body has more than the 10 bytes allowed": "final",
    "invalid blob property 'image' on class 'ClipExample'": "final",
}


@pytest.mark.parametrize("reason", REASONS)
def test_what_is_worth_another_try(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import sender

    failure = sender.Failure.of(reason)
    assert (failure.away, failure.unclear, failure.is_final) == tuple(
        REASONS[reason] == kind for kind in ("away", "unclear", "final")
    )


@pytest.fixture
def once(standin: Standin) -> Callable[[int, Callable[[], grpc.StatusCode | None]], None]:
    """Does something when Weaviate gets its nth batch; what it returns ends that batch."""

    def at(number: int, do: Callable[[], grpc.StatusCode | None]) -> None:
        standin.before_batch = lambda: do() if len(standin.batches) == number else None

    return at


def test_a_container_that_comes_back_costs_nothing(
    standin: Standin, importer: User, shapes: Path, container: str, once: Callable[..., None]
) -> None:
    (importer.folder / "photos").mkdir()
    for row in pictures_of(shapes)[:50]:
        (importer.folder / "photos" / row["path"]).write_bytes((shapes / row["path"]).read_bytes())
    (importer.folder / "photos" / "0030.png").write_text("<svg/>")

    def stop() -> None:
        standin.store.connect_container(NOBODY)
        threading.Timer(1.5, standin.store.connect_container, [container]).start()

    once(2, stop)
    result = importer.try_("import_images.py", "photos", "--batch-size", "20")
    assert "imported 49, there already 0, failed 1" in result.stdout
    assert "waiting for 10 min at most" in result.stderr
    assert "connection refused" in result.stderr
    assert importer.failures().keys() == {"0030.png"}
    assert "it looks like an SVG" in importer.failures()["0030.png"]
    assert len(standin.objects) == 49
    for shown in (result.stdout, result.stderr):
        assert "iVBOR" not in shown, "a picture as base64"
        assert "Warning" not in shown


def test_a_container_that_stays_away_ends_the_import(
    standin: Standin, importer: User, shapes: Path, container: str, once: Callable[..., None]
) -> None:
    once(3, lambda: standin.store.connect_container(NOBODY))
    import_ = "import_images.py", shapes / "pictures.csv", "--batch-size", "20"
    line = importer.fail(*import_, "--wait", "0.02")
    assert "the multi2vec-clip container does not answer Weaviate" in line
    assert re.search(r"for [1-9] s now; run the same command again to go on", line)
    assert len(standin.objects) == 40
    assert not importer.failures()
    line = importer.fail(*import_, "--wait", "0")
    assert line.endswith("run the same command again to go on")
    standin.store.connect_container(container)
    assert f"imported {len(pictures_of(shapes)) - 40}, there already 40, failed 0" in importer.run(*import_)


def test_weaviate_comes_back(standin: Standin, importer: User, shapes: Path, once: Callable[..., None]) -> None:
    def stop() -> grpc.StatusCode:
        standin.hangs_up = True
        threading.Timer(1.5, setattr, [standin, "hangs_up", False]).start()
        return grpc.StatusCode.INTERNAL

    once(3, stop)
    importer.run("import_images.py", shapes / "pictures.csv", "--batch-size", "20")
    assert len(standin.objects) == len(pictures_of(shapes))


def test_weaviate_stays_away(standin: Standin, importer: User, shapes: Path, once: Callable[..., None]) -> None:
    def stop() -> grpc.StatusCode:
        standin.hangs_up = True
        return grpc.StatusCode.INTERNAL

    once(3, stop)
    line = importer.fail("import_images.py", shapes / "pictures.csv", "--batch-size", "20", "--wait", "0.01")
    assert "Weaviate does not answer" in line
    assert "run the same command again" in line


def test_an_import_waits_for_a_container_that_is_not_there_yet(
    standin: Standin, importer: User, shapes: Path, container: str
) -> None:
    standin.store.connect_container(NOBODY)
    threading.Timer(1, standin.store.connect_container, [container]).start()
    importer.run("import_images.py", shapes / "queries")
    assert len(standin.objects) == 5


def test_a_picture_at_which_the_connection_always_breaks_stops_no_other(
    standin: Standin, importer: User, shapes: Path
) -> None:
    def fault(properties: dict[str, str]) -> str | None:
        return 'send POST request: Post "http://clip:8080": EOF' if properties["path"] == "0007.png" else None

    standin.store.fault = fault
    assert importer.try_("import_images.py", shapes / "pictures.csv").returncode == 1
    assert importer.failures() == {"0007.png": 'send POST request: Post "http://clip:8080": EOF'}
    assert len(standin.objects) == len(pictures_of(shapes)) - 1


def test_a_container_of_the_collections_own_that_weaviate_cannot_ask_for(
    standin: Standin, user: User, shapes: Path, container: str, once: Callable[..., None]
) -> None:
    user.run("create_collection.py", "--inference-url", container)
    left = 30

    def fault(_: dict[str, str]) -> str | None:
        nonlocal left
        left -= 1
        return 'send POST request: Post "…": dial tcp 127.0.0.1:9: connect: connection refused' if left > 0 else None

    def stop() -> None:
        standin.store.connect_container(NOBODY)  # the default container, which does not matter
        standin.store.fault = fault

    once(2, stop)
    user.run("import_images.py", shapes / "pictures.csv", "--batch-size", "28")
    assert len(standin.objects) == len(pictures_of(shapes))


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGKILL"])
def test_a_restart_under_an_import_loses_nothing(
    signal: str, importer: User, standin: Standin, shapes: Path, once: Callable[..., None]
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    servers = [start_server(ROOT / "demo/models", PORT=str(port))]
    try:
        wait_for_ready(url, servers[0])
        standin.store.connect_container(url)
        importing = threading.Event()
        once(3, importing.set)
        importer_ = importer.start("import_images.py", shapes / "pictures.csv", "--batch-size", "20")
        assert importing.wait(60)
        (servers[0].terminate if signal == "SIGTERM" else servers[0].kill)()
        servers[0].wait(60)
        servers.append(start_server(ROOT / "demo/models", PORT=str(port)))
        result = importer_.finish()
    finally:
        for server in servers:
            server.kill()
            server.wait()
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"imported {len(pictures_of(shapes))}, there already 0, failed 0" in result.stdout
    assert len(standin.objects) == len(pictures_of(shapes))
