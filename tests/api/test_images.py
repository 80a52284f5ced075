"""Pictures through a real server: shapes, the cap, and what decoders would write."""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.support.samples import encoded, scene

CASES = Path(__file__).parents[1] / "cases"


@pytest.mark.parametrize("size", [(1, 1), (1, 20000), (20000, 1), (500, 3), (3, 500), (3, 3)])
def test_extreme_shapes_equal_themselves_with_the_shape_known(server: str, size: tuple[int, int]) -> None:
    image = scene(*size)
    payload = {"images": [base64.b64encode(encoded(image)).decode()]}
    with_alpha = {"images": [base64.b64encode(encoded(image.convert("RGBA"))).decode()]}
    answers = [httpx.post(f"{server}/vectorize", json=each, timeout=60) for each in (payload, with_alpha)]
    vectors = [answer.json()["imageVectors"][0] for answer in answers]
    np.testing.assert_allclose(vectors[0], vectors[1], rtol=1e-5, atol=1e-6)


def test_the_cap_and_the_time_of_a_picture_are_settings(serve: Callable[..., str], tiny_models: Path) -> None:
    url = serve(tiny_models, MAX_PIXELS="1000", DECODE_TIMEOUT="0.5")
    for form in ("PNG", "TIFF"):
        for width, status in ((30, 200), (32, 422)):
            text = base64.b64encode(encoded(scene(width, 32), form)).decode()
            assert httpx.post(f"{url}/vectorize", json={"images": [text]}, timeout=60).status_code == status


def test_a_decoder_that_does_not_end_costs_the_others_nothing(serve: Callable[..., str], tiny_models: Path) -> None:
    url = serve(tiny_models, DECODE_TIMEOUT="1")
    texts = json.loads((CASES / "ccitt_request.json").read_text())["images"]
    answer = httpx.post(f"{url}/vectorize", json={"images": texts}, timeout=60)
    assert answer.status_code == 422
    assert "images[0]: takes more than the 1 s of computing allowed" in answer.json()["error"]
    good = base64.b64encode(encoded(scene(), "TIFF")).decode()
    assert httpx.post(f"{url}/vectorize", json={"images": [good]}, timeout=60).status_code == 200
