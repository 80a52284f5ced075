"""What Weaviate's multi2vec-clip module makes of this service's vectors: objects, searches, movements."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import numpy as np
import pytest

from tests.support.held_out import HeldOut
from tests.support.weaviate_client import GoClient, ModuleError, Poll, Vector
from tests.support.weaviate_module import ClassSettings, Module, Move, combine, cosine_distances

PICTURE_ONLY = ClassSettings(image_fields=("image",))
DOCUMENTED = ClassSettings(("name",), ("image",), (0.7,), (0.3,))
AT_ONCE = 2 * (os.cpu_count() or 1)


@dataclass(frozen=True)
class Import:
    vectors: Vector
    polls: list[Poll]
    requests: float
    errors: list[Exception]


@pytest.fixture(scope="module")
def documented(container: str, held_out: HeldOut) -> Import:
    """All held-out pictures with their texts, imported, while Weaviate goes on asking for readiness."""
    client = GoClient(container)
    polls: list[Poll] = []
    done = threading.Event()

    def poll() -> None:
        while not done.wait(0.05):
            polls.append(client.ready())

    objects = [{"image": i, "name": n} for i, n in zip(held_out.images, held_out.names, strict=True)]
    before = answered(container)
    thread = threading.Thread(target=poll)
    thread.start()
    try:
        rows = Module(GoClient(container), AT_ONCE).vectorize_batch(objects, DOCUMENTED)
    finally:
        done.set()
        thread.join()
    errors = [row for row in rows if isinstance(row, Exception)]
    vectors = np.array([row for row in rows if not isinstance(row, Exception)])
    return Import(vectors, polls, answered(container) - before, errors)


@pytest.fixture(scope="module")
def picture_only(module: Module, held_out: HeldOut) -> Vector:
    objects = [{"image": image} for image in held_out.images]
    rows = module.vectorize_batch(objects, PICTURE_ONLY)
    assert not [row for row in rows if isinstance(row, Exception)]
    return np.array(rows)


def answered(container: str) -> float:
    lines = httpx.get(f"{container}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith('clip_responses_total{status="200"}'))


def top_1(queries: list[Vector], vectors: Vector) -> float:
    nearest = [int(cosine_distances(query, vectors).argmin()) for query in queries]
    return float(np.mean(np.array(nearest) == np.arange(len(queries))))


def in_parallel(call: Callable[[str], Vector], items: list[str]) -> list[Vector]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(call, items))


# an import ------------------------------------------------------------------------------------


def test_polls_are_answered_during_an_import(documented: Import) -> None:
    """A busy machine may answer some too late for Weaviate's half second."""
    assert all(poll.error is None or isinstance(poll.error, TimeoutError) for poll in documented.polls)
    statuses = [poll.status for poll in documented.polls if poll.error is None]
    assert set(statuses) == {204}
    assert len(statuses) > len(documented.polls) / 2


def test_one_request_an_object(documented: Import, held_out: HeldOut) -> None:
    assert not documented.errors
    assert documented.requests == len(held_out.images)
    assert documented.vectors.shape == (len(held_out.images), 64)


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


def test_vectors_are_combined_without_normalising_them_first(container: str, held_out: HeldOut) -> None:
    client = GoClient(container)
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


def test_more_texts_than_weights_fail_the_whole_batch(module: Module, held_out: HeldOut) -> None:
    """Weaviate panics there; the documentation says to leave the weights out."""
    tags = {"image": held_out.images[0], "name": held_out.names[:3]}
    results = module.vectorize_batch([{"image": held_out.images[0]}, tags], DOCUMENTED)
    assert [type(each) for each in results] == [ModuleError, ModuleError]
    assert "index out of range [2] with length 2" in str(results[0])
    unweighted = module.vectorize_object(tags, ClassSettings(("name",), ("image",)))
    assert unweighted.shape == (64,)
