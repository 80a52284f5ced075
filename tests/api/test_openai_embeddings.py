"""POST /v1/embeddings, by OpenAI's own client."""

import asyncio
import base64
import json
import random
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from tokenizers import Tokenizer

from demo.world import Scene
from tests.support.server import ROOT
from tests.support.vectors import png

DEMO = ROOT / "demo" / "models"
TEXTS = ["a red star", "three blue circles on white", "", "it's a “quoted” text\nof two lines", "word " * 100]
MODEL = "coloured-shapes"


@pytest.fixture(scope="module")
def url(serve: Callable[..., str]) -> str:
    return serve(DEMO, ENABLE_EMBEDDINGS_API="1")


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="not asked for", max_retries=0)


def picture(shape: str, colour: str) -> str:
    return png(Scene(shape, colour, "white", "large", 1, "centre").draw(random.Random(0)))


def ours(url: str, texts: list[str], images: list[str]) -> tuple[np.ndarray, np.ndarray]:
    answer = httpx.post(f"{url}/vectorize", json={"texts": texts, "images": images}, timeout=60).json()
    return np.array(answer["textVectors"], np.float32), np.array(answer["imageVectors"], np.float32)


def embed(client: openai.OpenAI, items: Any, **options: Any) -> np.ndarray:
    """Vectors, float32 (items, width), with the places checked."""
    answer = client.embeddings.create(model="whatever the tool is set to", input=items, **options)
    assert answer.object == "list"
    assert answer.model == MODEL
    assert [each.index for each in answer.data] == list(range(len(answer.data)))
    return np.array([each.embedding for each in answer.data], np.float32)


@pytest.mark.parametrize("encoding", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_vectors_are_those_of_vectorize(client: openai.OpenAI, url: str, encoding: dict[str, str]) -> None:
    if encoding.get("encoding_format") == "base64":  # asked for by name, the client leaves it to its caller
        raw: Any = client.embeddings.create(model=MODEL, input=TEXTS, encoding_format="base64").data
        got = np.array([np.frombuffer(base64.b64decode(each.embedding), "<f4") for each in raw])
    else:
        got = embed(client, TEXTS, **encoding)
    np.testing.assert_allclose(got, ours(url, TEXTS, [])[0], rtol=1e-4, atol=1e-5)


def test_one_string_is_one_item(client: openai.OpenAI, url: str) -> None:
    got = embed(client, "a red star", dimensions=64)
    np.testing.assert_allclose(got, ours(url, ["a red star"], [])[0], rtol=1e-4, atol=1e-5)


def test_texts_and_pictures_in_every_form_keep_their_places(client: openai.OpenAI, url: str) -> None:
    star, ring = picture("star", "red"), picture("ring", "green")
    address = f"data:image/png;base64,{star}"
    items = [
        {"image": star},
        "a red star",
        address,
        {"text": "a green ring"},
        {"image": f"data:image/png;base64,{ring}"},
        {"type": "image_url", "image_url": {"url": address, "detail": "low"}},
        {"type": "text", "text": "a red star"},
        {"image_url": address},
    ]
    texts, images = ours(url, ["a red star", "a green ring"], [star, ring])
    want = [images[0], texts[0], images[0], texts[1], images[1], images[0], texts[0], images[0]]
    np.testing.assert_allclose(embed(client, items), want, rtol=1e-4, atol=1e-5)
    got = client.embeddings.create(model=MODEL, input=address).data[0].embedding
    np.testing.assert_allclose(got, images[0], rtol=1e-4, atol=1e-5)


def test_many_items_come_in_order(client: openai.OpenAI, url: str) -> None:
    texts = [f"{number} circles" for number in range(300)]
    np.testing.assert_allclose(embed(client, texts), ours(url, texts, [])[0], rtol=1e-4, atol=1e-4)


def test_tokens_are_counted_as_the_model_reads_them(client: openai.OpenAI) -> None:
    tokenizer = Tokenizer.from_file(str(DEMO / "text" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    longest = 32
    assert len(tokenizer.encode(TEXTS[-1]).ids) > longest
    want = sum(min(longest, len(tokenizer.encode(text).ids)) for text in TEXTS)
    usage = client.embeddings.create(model=MODEL, input=TEXTS).usage
    assert (usage.prompt_tokens, usage.total_tokens) == (want, want)
    assert client.embeddings.create(model=MODEL, input=[TEXTS[0]] * 3).usage.total_tokens == 3 * len(
        tokenizer.encode(TEXTS[0]).ids
    )
    items: Any = [{"image": picture("star", "red")}]
    assert client.embeddings.create(model=MODEL, input=items).usage.total_tokens == 0


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        ({"input": ["fine", {"image": "AAAA"}, "fine"]}, "input[1]: ", "input"),
        ({"input": [{"text": "fine"}, {"image": "%%%"}]}, "input[1]: ", "input"),
        ({"input": [{"image": "https://example.com/a.png"}]}, "input[0]: no address is opened here", "input"),
        ({"input": [{"image_url": {"url": "file:///etc/passwd"}}]}, "input[0]: no address is opened here", "input"),
        ({"input": [[1, 2, 3]]}, "input[0]: token ids are those of another tokenizer", "input"),
        ({"input": [1, 2, 3]}, "input[0]: token ids are those of another tokenizer", "input"),
        ({"input": ["a", None]}, "input[1]: expected a string or an object, got null", "input"),
        ({"input": [{"text": "a", "image": "AAAA"}]}, "input[0]: holds more than one text or image", "input"),
        ({"input": [{"txt": "a"}]}, "input[0]: holds neither a text nor an image", "input"),
        ({"input": []}, "input: nothing to embed", "input"),
        ({}, "input: nothing to embed", "input"),
        ({"input": None}, "input: expected a string or an object, got null", "input"),
        ({"input": "a", "dimensions": 32}, "dimensions: this model gives vectors of 64 numbers", "dimensions"),
        ({"input": "a", "dimensions": 6.4}, "dimensions: expected a whole number, got 6.4", "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, 'encoding_format: "int8" is not known', "encoding_format"),
        ({"input": "a", "model": 3}, "model: expected a string, got a number", "model"),
    ],
)
def test_what_is_wrong_is_said_in_the_form_of_that_api(
    client: openai.OpenAI, url: str, body: dict[str, Any], message: str, param: str
) -> None:
    response = httpx.post(f"{url}/v1/embeddings", json=body)
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["message"].startswith(message)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    if "model" not in body:
        with pytest.raises(openai.BadRequestError, match=error["message"].partition(":")[0].replace("[", r"\[")):
            client.embeddings.create(**{"input": openai.omit, "model": MODEL, **body})


@pytest.mark.parametrize("body", ["", "[]", "null", '"a"', "{", '{"input": "a"', '{"input": ["a",]}', "{'input': 1}"])
def test_what_is_no_json_object_is_refused(url: str, body: str) -> None:
    response = httpx.post(f"{url}/v1/embeddings", content=body)
    assert response.status_code == 400
    assert isinstance(response.json()["error"]["message"], str)


def test_unknown_keys_and_nulls_are_passed(url: str) -> None:
    body = {"user": {"id": [1]}, "input": "a", "model": None, "dimensions": None, "encoding_format": None, "x": [[]]}
    assert len(httpx.post(f"{url}/v1/embeddings", json=body).json()["data"]) == 1
    escaped = json.dumps({"input": "ä🙂"}, ensure_ascii=True)
    assert httpx.post(f"{url}/v1/embeddings", content=escaped).status_code == 200


def test_models_are_listed_and_found_by_name(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "multi2vec-clip"
    with pytest.raises(openai.NotFoundError, match="the model served here is coloured-shapes"):
        client.models.retrieve("openai/another")


def test_too_many_items_are_told_so(serve: Callable[..., str]) -> None:
    url = serve(DEMO, ENABLE_EMBEDDINGS_API="1")
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0)
    assert len(client.embeddings.create(model=MODEL, input=["a"] * 1000).data) == 1000
    with pytest.raises(openai.APIStatusError, match="more than the 10000 items allowed") as caught:
        client.embeddings.create(model=MODEL, input=["a"] * 10_001)
    assert caught.value.status_code == 413


def test_the_token_is_the_api_key(serve: Callable[..., str]) -> None:
    url = serve(DEMO, ENABLE_EMBEDDINGS_API="1", API_TOKEN="s3cret")
    right = openai.OpenAI(base_url=f"{url}/v1", api_key="s3cret", max_retries=0)
    assert len(right.embeddings.create(model=MODEL, input="a").data) == 1
    with pytest.raises(openai.AuthenticationError) as caught:
        right.with_options(api_key="wrong").embeddings.create(model=MODEL, input="a")
    assert caught.value.code == "invalid_api_key"


def test_requests_at_once_get_their_own_rows(url: str) -> None:
    texts = [f"{number} red stars" for number in range(60)]
    want = ours(url, texts, [])[0]

    async def all_at_once() -> list[list[float]]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
            answers = await asyncio.gather(*(client.embeddings.create(model=MODEL, input=text) for text in texts))
        return [answer.data[0].embedding for answer in answers]

    np.testing.assert_allclose(asyncio.run(all_at_once()), want, rtol=1e-4, atol=1e-4)


def test_off_by_default(serve: Callable[..., str]) -> None:
    client = openai.OpenAI(base_url=f"{serve(DEMO)}/v1", api_key="x", max_retries=0)
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model=MODEL, input="a")
