"""The service as the HTTP client of Weaviate's multi2vec-clip module uses it."""

import base64
import json
import re
import time

import numpy as np
import pytest

from app.main import create_app
from app.server import make_server
from app.settings import Settings
from tests.support.held_out import HeldOut
from tests.support.server import free_port, wait_for_ready
from tests.support.weaviate_client import GoClient, ModuleError
from tests.support.weaviate_module import ClassSettings, Module
from tests.support.weaviate_start import Start, Started

PICTURE_ONLY = ClassSettings(image_fields=("image",))


def test_every_poll_of_the_start_is_answered(service: Started) -> None:
    """A busy machine may answer some too late for Weaviate's half second, which goes on asking."""
    polls = service.polls
    while isinstance(polls[0].error, ConnectionRefusedError):
        polls = polls[1:]
    assert all(poll.error is None or isinstance(poll.error, TimeoutError) for poll in polls), "it stopped listening"
    statuses = [poll.status for poll in polls if poll.error is None]
    assert statuses == [503] * (len(statuses) - 1) + [204]
    assert 503 in statuses, "no poll fell into the loading"
    assert all(isinstance(json.loads(poll.body)["error"], str) for poll in polls if poll.status == 503)


def test_meta_is_a_map(container: str) -> None:
    assert {"clip_model", "text_model"} <= GoClient(container).meta().keys()


def test_arrays_that_are_empty_are_left_out(container: str, held_out: HeldOut) -> None:
    client = GoClient(container)
    for texts, images in ([], held_out.images[:2]), (held_out.names[:2], []), ([], []):
        text_vectors, image_vectors = client.vectorize(texts, images)
        assert (len(text_vectors), len(image_vectors)) == (len(texts), len(images))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (("POST", "/vectorize", b'{"images": ["PGh0bWw+"]}'), r"422.*images\[0\].*HTML"),
        (("POST", "/vectorize", b'{"texts": "one"}'), "422.*texts"),
        (("POST", "/vectorize", b"{"), "422.*JSON"),
        (("GET", "/vectorize", None), "405"),
        (("POST", "/v1/vectorize", b"{}"), "404"),
        (("POST", "/vectorize", b" " * (129 * 2**20)), "413.*134217728"),
    ],
    ids=["picture", "type", "json", "method", "path", "size"],
)
def test_every_error_parses_before_its_status_is_looked_at(
    container: str, request_: tuple[str, str, bytes | None], message: str
) -> None:
    status, body = GoClient(container).send(*request_)
    error = json.loads(body)["error"]
    assert isinstance(error, str)
    assert re.search(message, f"{status} {error}")


def test_a_bad_picture_is_reported_as_weaviate_reports_it(module: Module, held_out: HeldOut) -> None:
    good = {"image": held_out.images[0]}
    bad = {"image": base64.b64encode(b"<svg/>").decode()}
    first, second, third = module.vectorize_batch([good, bad, good], PICTURE_ONLY)
    assert isinstance(second, ModuleError)
    assert str(second).startswith("fail with status 422: images[0]: ")
    np.testing.assert_allclose(first, third, rtol=1e-4)


def test_an_inference_url_of_a_class_goes_to_that_container(
    container: str, module: Module, held_out: HeldOut
) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    settings = ClassSettings.parse({"imageFields": ["image"], "inferenceUrl": container})
    there = Module(GoClient(nobody), 1).vectorize_object({"image": held_out.images[0]}, settings)
    here = module.vectorize_object({"image": held_out.images[0]}, PICTURE_ONLY)
    np.testing.assert_allclose(there, here, rtol=1e-4)


def test_no_answer_is_a_redirect(container: str) -> None:
    client = GoClient(container)
    assert client.send("POST", "/vectorize/", b'{"texts": ["a"]}')[0] == 200
    for path in ("/meta/", "/.well-known/ready/", "/vectorize/x", "/"):
        status, body = client.send("GET", path)
        assert status < 300 or (status >= 400 and isinstance(json.loads(body)["error"], str))


def test_an_address_with_a_slash_at_its_end(container: str) -> None:
    client = GoClient(f"{container}/")
    assert client.ready().status == 204
    assert client.meta() == GoClient(container).meta()
    [vector], _ = client.vectorize(["text"], [])
    assert vector.shape == (64,)


def test_the_token_is_the_password_of_the_address(start: Start) -> None:
    port, process = start(API_TOKEN="s%ecret")
    wait_for_ready(f"http://127.0.0.1:{port}", process)
    with pytest.raises(ModuleError, match=r"^fail with status 401: "):
        GoClient(f"http://127.0.0.1:{port}").vectorize(["text"], [])
    client = GoClient(f"http://anybody:s%25ecret@127.0.0.1:{port}")
    assert client.wait_for_startup()[-1].status == 204
    assert client.meta()
    assert len(client.vectorize(["text"], [])[0]) == 1


def test_idle_connections_are_still_reused_when_others_have_closed_them(service: Started) -> None:
    """Many servers close after 5 s; a request that meets the closing is lost."""
    time.sleep(max(0, service.idle_since + 6 - time.monotonic()))
    for client in service.idle:
        client.vectorize(["two"], [])
    assert [(each.dialled, each.reused) for each in service.idle] == [(1, 1)] * len(service.idle)


def test_idle_connections_are_kept_longer_than_the_client_keeps_them() -> None:
    """What the server is started with; the test above shows that it goes by it."""
    assert make_server(create_app(Settings())).config.timeout_keep_alive > 90
