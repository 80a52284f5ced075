"""The HTTP contract, checked from outside against a real server."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.support.contract import check_contract


def test_every_rule_of_the_contract_holds(server: str) -> None:
    check_contract(server)


def test_meta_reports_the_models_own_config(server: str) -> None:
    meta = httpx.get(f"{server}/meta").json()
    assert meta["clip_model"]["projection_dim"] == 16
    assert meta["text_model"]["model_type"] == "clip"


def test_trailing_slash_does_not_redirect(server: str) -> None:
    assert httpx.post(f"{server}/vectorize/", json={"texts": ["a"]}).status_code == 200


def test_body_above_the_limit_is_refused(serve: Callable[..., str], tiny_models: Path) -> None:
    url = serve(tiny_models, MAX_BODY_BYTES="1000")
    for content in (b"x" * 2000, (b"x" * 100 for _ in range(20))):
        response = httpx.post(f"{url}/vectorize", content=content)
        assert response.status_code == 413
        assert "1000" in response.json()["error"]


@pytest.mark.parametrize("item", ["https://example.com/a.jpg", "<html></html>", "data:image/png;base64,"])
def test_junk_images_are_named(server: str, item: str) -> None:
    response = httpx.post(f"{server}/vectorize", json={"images": [item]})
    assert response.status_code == 422
    assert response.json()["error"].startswith("images[0]: ")


def test_the_schema_describes_the_body(server: str) -> None:
    operation = httpx.get(f"{server}/openapi.json").json()["paths"]["/vectorize"]["post"]
    described = operation["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert described.keys() == {"texts", "images"}
