"""The service as Weaviate's multi2vec-clip module uses it: its client, and what it makes of the vectors."""

import base64
import io
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from demo.world import ATTRIBUTES, Scene, random_scene, random_size
from tests.support.server import free_port, start_server
from tests.support.weaviate_module import (
    ClassSettings,
    GoClient,
    Module,
    ModuleError,
    Move,
    Poll,
    Vector,
    combine,
    cosine_distances,
)

PICTURES = 300
SEED = 77  # training's is 0, and 1 that of the model's own evaluation
PICTURE_ONLY = ClassSettings(image_fields=("image",))
DOCUMENTED = ClassSettings(("name",), ("image",), (0.7,), (0.3,))
AT_ONCE = 2 * (os.cpu_count() or 1)


@dataclass(frozen=True)
class Service:
    url: str
    polls: list[Poll]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """Started as Weaviate sees it start: polled from before it listens; in a fresh checkout it compiles first."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    process = start_server(Path("demo/models"), PORT=str(port))
    try:
        yield Service(url, GoClient(url).wait_for_startup(interval=0.1))
    finally:
        process.terminate()
        assert process.wait(20) == 0


@dataclass(frozen=True)
class HeldOut:
    """Pictures that the model was not trained on; for each a text, another text, and another drawing."""

    images: list[str]
    names: list[str]
    questions: list[str]
    drawings: list[str]


@pytest.fixture(scope="module")
def held_out() -> HeldOut:
    rng = random.Random(SEED)
    scenes: dict[Scene, None] = {}
    while len(scenes) < PICTURES:
        scenes[random_scene(rng, held_out=True)] = None

    def draw(scene: Scene) -> str:
        return encode(scene.draw(rng, random_size(rng)))

    def describe(scene: Scene) -> str:
        return scene.caption(rng, ATTRIBUTES)

    return HeldOut(*([make(scene) for scene in scenes] for make in (draw, describe, describe, draw)))


@dataclass(frozen=True)
class Import:
    vectors: Vector
    polls: list[Poll]
    requests: float
    errors: list[Exception]


@pytest.fixture(scope="module")
def documented(service: Service, held_out: HeldOut) -> Import:
    """All held-out pictures with their texts, imported, while Weaviate goes on asking for readiness."""
    client = GoClient(service.url)
    polls: list[Poll] = []
    done = threading.Event()

    def poll() -> None:
        while not done.wait(0.05):
            polls.append(client.ready())

    objects = [{"image": i, "name": n} for i, n in zip(held_out.images, held_out.names, strict=True)]
    before = answered(service)
    thread = threading.Thread(target=poll)
    thread.start()
    try:
        rows = Module(GoClient(service.url), AT_ONCE).vectorize_batch(objects, DOCUMENTED)
    finally:
        done.set()
        thread.join()
    errors = [row for row in rows if isinstance(row, Exception)]
    vectors = np.array([row for row in rows if not isinstance(row, Exception)])
    return Import(vectors, polls, answered(service) - before, errors)


@pytest.fixture(scope="module")
def picture_only(service: Service, held_out: HeldOut) -> Vector:
    objects = [{"image": image} for image in held_out.images]
    rows = Module(GoClient(service.url), AT_ONCE).vectorize_batch(objects, PICTURE_ONLY)
    assert not [row for row in rows if isinstance(row, Exception)]
    return np.array(rows)


@pytest.fixture(scope="module")
def module(service: Service) -> Module:
    return Module(GoClient(service.url), AT_ONCE)


def encode(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def answered(service: Service) -> float:
    lines = httpx.get(f"{service.url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith('clip_responses_total{status="200"}'))


def top_1(queries: list[Vector], vectors: Vector) -> float:
    nearest = [int(cosine_distances(query, vectors).argmin()) for query in queries]
    return float(np.mean(np.array(nearest) == np.arange(len(queries))))


def in_parallel(call: Callable[[str], Vector], items: list[str]) -> list[Vector]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(call, items))


# the client ------------------------------------------------------------------------------------


def test_every_poll_of_the_start_is_answered_in_time(service: Service) -> None:
    statuses = [poll.status for poll in service.polls]
    assert statuses[-1] == 204
    assert set(statuses[:-1]) <= {None, 503}
    assert 503 in statuses, "no poll fell into the loading"
    assert None not in statuses[statuses.index(503) :], "it stopped listening"
    for poll in service.polls:
        assert poll.seconds < 0.5
        if poll.status == 503:
            assert isinstance(json.loads(poll.body)["error"], str)


def test_polls_are_in_time_during_an_import(documented: Import) -> None:
    assert len(documented.polls) >= 5
    assert {poll.status for poll in documented.polls} == {204}
    assert max(poll.seconds for poll in documented.polls) < 0.5


def test_meta_is_a_map(service: Service) -> None:
    assert {"clip_model", "text_model"} <= GoClient(service.url).meta().keys()


def test_one_request_an_object(documented: Import) -> None:
    assert not documented.errors
    assert documented.requests == PICTURES
    assert documented.vectors.shape == (PICTURES, 64)


def test_arrays_that_are_empty_are_left_out(service: Service, held_out: HeldOut) -> None:
    client = GoClient(service.url)
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
        (("POST", "//vectorize", b"{}"), "404"),
        (("POST", "/v1/vectorize", b"{}"), "404"),
        (("POST", "/vectorize", b" " * (129 * 2**20)), "413.*134217728"),
    ],
    ids=["picture", "type", "json", "method", "slash", "path", "size"],
)
def test_every_error_parses_before_its_status_is_looked_at(
    service: Service, request_: tuple[str, str, bytes | None], message: str
) -> None:
    status, body = GoClient(service.url).send(*request_)
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


def test_an_inference_url_of_a_class_goes_to_that_container(service: Service, held_out: HeldOut) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    settings = ClassSettings.parse({"imageFields": ["image"], "inferenceUrl": service.url})
    there = Module(GoClient(nobody), AT_ONCE).vectorize_object({"image": held_out.images[0]}, settings)
    here = Module(GoClient(service.url), AT_ONCE).vectorize_object({"image": held_out.images[0]}, PICTURE_ONLY)
    np.testing.assert_allclose(there, here, rtol=1e-4)


def test_no_answer_is_a_redirect(service: Service) -> None:
    client = GoClient(service.url)
    assert client.send("POST", "/vectorize/", b'{"texts": ["a"]}')[0] == 200
    for path in ("/meta/", "/.well-known/ready/", "/vectorize/x", "/"):
        status, body = client.send("GET", path)
        assert status in (404, 405)
        assert isinstance(json.loads(body)["error"], str)


def test_idle_connections_are_reused_just_when_others_close_them(service: Service) -> None:
    """Many servers close after 5 s; a request that meets the closing is lost."""
    pauses = [4.8, 4.9, 4.95, 4.98, 5.0, 5.02, 5.05, 5.1, 5.3, 6.0]
    clients = [GoClient(service.url) for _ in pauses]

    def use_again(client: GoClient, pause: float) -> None:
        client.vectorize(["one"], [])
        time.sleep(pause)
        client.vectorize(["two"], [])

    with ThreadPoolExecutor(len(pauses)) as pool:
        list(pool.map(use_again, clients, pauses))
    assert [(client.dialled, client.reused) for client in clients] == [(1, 1)] * len(pauses)


def test_idle_connections_are_kept_longer_than_the_client_keeps_them() -> None:
    """What the server is started with; the test above shows that it goes by it."""
    show = "import uvicorn; uvicorn.Server.run = lambda self: print(self.config.timeout_keep_alive)"
    code = f"{show}; from app.__main__ import main; main()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(result.stdout) > 90


# what is found ---------------------------------------------------------------------------------


def test_near_text_finds_the_picture(module: Module, held_out: HeldOut, picture_only: Vector) -> None:
    queries = in_parallel(lambda text: module.near_text([text], PICTURE_ONLY), held_out.questions)
    assert top_1(queries, picture_only) >= 0.9


def test_near_text_finds_picture_and_text(module: Module, held_out: HeldOut, documented: Import) -> None:
    queries = in_parallel(lambda text: module.near_text([text], DOCUMENTED), held_out.questions)
    assert top_1(queries, documented.vectors) >= 0.95


@pytest.mark.parametrize("index", ["picture_only", "documented"])
def test_near_image_finds_another_drawing_of_the_same(
    module: Module, held_out: HeldOut, index: str, request: pytest.FixtureRequest
) -> None:
    vectors = request.getfixturevalue(index)
    vectors = vectors.vectors if isinstance(vectors, Import) else vectors
    queries = in_parallel(lambda image: module.near_image(image, PICTURE_ONLY), held_out.drawings)
    assert top_1(queries, vectors) >= 0.9


# weights ---------------------------------------------------------------------------------------


def weighted(text: float, image: float) -> ClassSettings:
    return ClassSettings(("name",), ("image",), (text,), (image,))


def test_vectors_are_combined_without_normalising_them_first(service: Service, held_out: HeldOut) -> None:
    client = GoClient(service.url)
    [text], [image] = client.vectorize(held_out.names[:1], held_out.images[:1])
    assert np.linalg.norm(image) > 1.1 * np.linalg.norm(text), "the model's lengths differ, and it must show"
    got = Module(client, 1).vectorize_object({"name": held_out.names[0], "image": held_out.images[0]}, DOCUMENTED)
    np.testing.assert_allclose(got, (0.7 * text + 0.3 * image) / 2, rtol=1e-3, atol=1e-4)
    normalised = 0.7 * text / np.linalg.norm(text) + 0.3 * image / np.linalg.norm(image)
    assert cosine_distances(got, normalised) > 1e-3


def test_weights_count_by_their_ratio_alone(module: Module, held_out: HeldOut) -> None:
    properties = {"name": held_out.names[0], "image": held_out.images[0]}
    vectors = [module.vectorize_object(properties, weighted(*pair)) for pair in ((0.7, 0.3), (7, 3))]
    np.testing.assert_allclose(*vectors, rtol=1e-3, atol=1e-4)
    equal = module.vectorize_object(properties, ClassSettings(("name",), ("image",)))
    assert cosine_distances(equal, module.vectorize_object(properties, weighted(1, 1))) < 1e-5


def test_an_object_without_text_has_the_direction_of_its_picture(
    module: Module, held_out: HeldOut, picture_only: Vector
) -> None:
    vector = module.vectorize_object({"image": held_out.images[0]}, DOCUMENTED)
    assert cosine_distances(vector, picture_only[0]) < 1e-5


def test_weights_decide_between_a_picture_and_a_text_that_differ(module: Module, held_out: HeldOut) -> None:
    """Each object has the picture of one scene and the text of another."""
    count = 60
    objects = [{"image": held_out.images[i], "name": held_out.names[i + count]} for i in range(count)]
    by_text = in_parallel(lambda text: module.near_text([text], DOCUMENTED), held_out.questions[count : 2 * count])
    by_image = in_parallel(lambda image: module.near_image(image, DOCUMENTED), held_out.drawings[:count])
    found = {
        text_weight: [
            top_1(queries, np.array(module.vectorize_batch(objects, weighted(text_weight, 1 - text_weight))))
            for queries in (by_text, by_image)
        ]
        for text_weight in (0.05, 0.5, 0.95)
    }
    assert found[0.95][0] >= 0.9
    assert found[0.05][1] >= 0.9
    assert found[0.05][0] < found[0.5][0] <= found[0.95][0]
    assert found[0.95][1] < found[0.5][1] <= found[0.05][1]


# movements -------------------------------------------------------------------------------------


def test_move_to_goes_half_the_way_at_most(module: Module, held_out: HeldOut) -> None:
    one, other = held_out.questions[:2]
    start, target = (module.near_text([text], DOCUMENTED) for text in (one, other))
    for force in (0.25, 0.5, 1.0):
        moved = module.near_text([one], DOCUMENTED, move_to=Move(force, (other,)))
        np.testing.assert_allclose(moved, start + force / 2 * (target - start), rtol=1e-3, atol=1e-4)


def test_move_away_goes_half_the_way_back(module: Module, held_out: HeldOut) -> None:
    one, other = held_out.questions[:2]
    start, target = (module.near_text([text], DOCUMENTED) for text in (one, other))
    moved = module.near_text([one], DOCUMENTED, move_away=Move(0.8, (other,)))
    np.testing.assert_allclose(moved, start - 0.4 * (target - start), rtol=1e-3, atol=1e-4)


def test_movements_shift_what_is_found(module: Module, held_out: HeldOut, documented: Import) -> None:
    """Towards or away from another picture's text, or that picture itself: its rank follows."""
    ranks: dict[str, list[int]] = {"plain": [], "to": [], "to object": [], "away": [], "away from object": []}
    for index in range(20):
        question, other = held_out.questions[index], 20 + index
        words, thing = Move(0.8, (held_out.questions[other],)), Move(0.8, objects=(documented.vectors[other],))
        queries = {
            "plain": module.near_text([question], DOCUMENTED),
            "to": module.near_text([question], DOCUMENTED, move_to=words),
            "to object": module.near_text([question], DOCUMENTED, move_to=thing),
            "away": module.near_text([question], DOCUMENTED, move_away=words),
            "away from object": module.near_text([question], DOCUMENTED, move_away=thing),
        }
        for name, query in queries.items():
            distances = cosine_distances(query, documented.vectors)
            ranks[name].append(int((distances < distances[other]).sum()))
    medians = {name: float(np.median(values)) for name, values in ranks.items()}
    assert medians["to"] < medians["plain"] / 4, medians
    # An object's vector is shorter than a text's, being a sum divided by two: it moves the query less.
    assert medians["to"] < medians["to object"] < medians["plain"] / 2, medians
    assert min(medians["away"], medians["away from object"]) > medians["plain"] * 1.2, medians


def test_several_concepts_count_as_their_mean(module: Module, held_out: HeldOut) -> None:
    texts = held_out.questions[:3]
    mean = combine([module.near_text([text], DOCUMENTED) for text in texts], None)
    np.testing.assert_allclose(module.near_text(texts, DOCUMENTED), mean, rtol=1e-3, atol=1e-4)
