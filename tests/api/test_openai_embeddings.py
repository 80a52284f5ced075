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

pytestmark = pytest.mark.served_once

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


def pictures_in_other_words(star: str) -> list[str]:
    """Texts that are a picture, each in another way."""
    lines = "\n".join(star[at : at + 64] for at in range(0, len(star), 64))
    return [
        f"\ndata:image/png;base64,{star}",
        f"  \tdata:image/png;base64, {star} ",
        f'"data:image/png;base64,{star}"',
        f"'data:image/png;base64,{star}'",
        f"‘data:image/png;base64,{star}’",
        f"<data:image/png;base64,{star}>",
        f"\ufeff\u00a0data:image/png;base64,{star}",
        f"data:image/png;name={'x' * 100}.png;base64,{star}",
        f"data:image/png;name={'x' * 3000}.png;base64,{star}",
        f'data:image/png;name="a, b.png";base64,{star}',
        f"DATA:IMAGE/PNG;BASE64,{star}",
        f"data:image/png;charset=utf-8; base64,{lines}",
        f"data:;base64,{star}",
        f"data:application/octet-stream;base64,{star}",
        star,
        lines,
    ]


def test_a_text_that_is_a_picture_becomes_one(client: openai.OpenAI, url: str) -> None:
    star = picture("star", "red")
    items = pictures_in_other_words(star)
    want = np.repeat(ours(url, [], [star])[1], len(items), axis=0)
    np.testing.assert_allclose(embed(client, items), want, rtol=1e-4, atol=1e-5)
    as_texts: Any = [{"text": item} for item in items]
    np.testing.assert_allclose(embed(client, as_texts), want, rtol=1e-4, atol=1e-5)
    as_images: Any = [{"image": item} for item in items]
    np.testing.assert_allclose(embed(client, as_images), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("![a star](data:image/png;base64,STAR)", "input[1]: holds a picture within a text"),
        ("<img src='data:image/png;base64,STAR'>", "input[1]: holds a picture within a text"),
        ("what is on this picture? data:image/png;base64,STAR", "input[1]: holds a picture within a text"),
        ("data:image/svg+xml;base64,PHN2ZyB4bWxucz0iaHR0cDovL3d3dy53My5vcmcvMjAwMC9zdmciLz4=", "input[1]: is "),
        ("data:image/svg+xml,%3Csvg%20xmlns=%22http://www.w3.org/2000/svg%22/%3E", "input[1]: is "),
        ("data:image/svg+xml;utf8,<svg xmlns='http://www.w3.org/2000/svg'/>", "input[1]: is "),
        ("data:image/png;base64,", "input[1]: is empty"),
        ("data:audio/wav;base64,UklGRiQAAABXQVZFZm10IBAAAAABAAEA", "input[1]: is "),
    ],
)
def test_what_holds_a_picture_and_is_none_is_refused(client: openai.OpenAI, text: str, words: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=MODEL, input=["a", text.replace("STAR", picture("star", "red"))])
    assert words in caught.value.message


def test_a_text_that_mentions_an_address_stays_a_text(client: openai.OpenAI, url: str) -> None:
    texts = [
        "a star, see https://example.com/star.png",
        "https://example.com/star.png",
        "a data URI begins with data:image/png;base64, and then come letters",
        "data:image/png;base64, is how a data URI begins",
        "data:image/png, data:image/jpeg and the like",
        "data: 64 red stars; base64, too",
        "/9j/ is how a JPEG begins in base64",
        "iVBORw0KGgo",
        "image/png",
        "a long document about red stars, " * 20 + f"![](data:image/png;base64,{picture('star', 'red')})",
    ]
    np.testing.assert_allclose(embed(client, texts), ours(url, texts, [])[0], rtol=1e-4, atol=1e-4)


def test_the_forms_of_other_servers_are_taken_as_they_are_meant(client: openai.OpenAI, url: str) -> None:
    star, ring = picture("star", "red"), picture("ring", "green")
    address = f"data:image/png;base64,{star}"
    (text,), (first, second) = ours(url, ["a red star"], [star, ring])
    for body, want in (
        ({"input": [star, ring], "modality": "image"}, [first, second]),
        ({"modality": "image", "input": address}, [first]),
        ({"input": [star, {"text": "a red star"}], "modality": "image"}, [first, text]),
        ({"input": ["a red star", address], "modality": "text"}, [text, first]),
        ({"input": [star, ring], "input_type": "image"}, [first, second]),
        ({"input": ["a red star"], "input_type": "search_document", "images": [], "messages": None}, [text]),
        ({"messages": [{"role": "user", "content": "a red star"}]}, [text]),
        ({"messages": [{"content": [{"type": "image_url", "image_url": {"url": address}}]}]}, [first]),
        ({"messages": [{"content": [{"image_url": {"url": address}}, {"type": "text", "text": ""}]}]}, [first]),
        ({"messages": [{"role": "user", "content": "", "images": [ring]}]}, [second]),
        ({"inputs": [{"content": [{"type": "image_base64", "image_base64": address}]}, "a red star"]}, [first, text]),
        ({"inputs": [{"content": [{"type": "image_url", "image_url": {"url": address}}]}]}, [first]),
        ({"inputs": [{"content": [{"type": "text", "text": "a red star"}]}], "input_type": "document"}, [text]),
        ({"input": [{"type": "input_image", "image_url": address}, {"image": {"url": address}}]}, [first, first]),
        ({"input": "a red star", "embedding_type": "float", "normalized": True, "task": "retrieval.query"}, [text]),
    ):
        answer = httpx.post(f"{url}/v1/embeddings", json=body)
        assert answer.status_code == 200, (body, answer.text)
        got = np.array([each["embedding"] for each in answer.json()["data"]], np.float32)
        np.testing.assert_allclose(got, np.array(want), rtol=1e-4, atol=1e-5)


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
        ({"input": [{"image": "https://example.com/a.png"}]}, "input[0]: addresses are not opened", "input"),
        ({"input": [{"image_url": {"url": "file:///etc/passwd"}}]}, "input[0]: addresses are not opened", "input"),
        ({"input": [[1, 2, 3]]}, "input[0]: token ids come from another tokenizer", "input"),
        ({"input": [1, 2, 3]}, "input[0]: token ids come from another tokenizer", "input"),
        ({"input": ["a", None]}, "input[1]: expected a string or an object, got null", "input"),
        ({"input": [{"text": "a", "image": "AAAA"}]}, "input[0]: holds more than one text or image", "input"),
        ({"input": [{"txt": "a"}]}, "input[0]: holds neither a text nor an image", "input"),
        ({"input": []}, "input: nothing to embed", "input"),
        ({}, "input: nothing to embed", "input"),
        ({"input": None}, "input: nothing to embed", "input"),
        ({"input": ["a", {"text": "b", "audio": "UklG"}]}, 'input[1]: holds "audio"', "input"),
        ({"input": "a", "images": ["AAAA"]}, "images: not known on this route", "images"),
        ({"input": "a", "image": "AAAA"}, "image: not known on this route", "image"),
        ({"texts": ["a"], "images": ["AAAA"]}, "texts: not known on this route", "texts"),
        ({"input": "a", "modality": "audio"}, 'modality: "audio" is not known', "modality"),
        ({"input": "a", "input_type": "video"}, 'input_type: "video" is not embedded here', "input_type"),
        ({"input": ["a (red) star"], "modality": "image"}, "input[0]: is not base64", "input"),
        ({"input": ["https://a.b/c.png"], "modality": "image"}, "input[0]: addresses are not opened", "input"),
        ({"input": ["https://a.b/c.png"], "input_type": "image"}, "input[0]: addresses are not opened", "input"),
        ({"input": "a", "inputs": ["b"]}, "inputs: send one of input, inputs, not several", "inputs"),
        ({"inputs": ["a", {"content": [{"text": "a"}, {"text": "b"}]}]}, "inputs[1]: holds more than one", "inputs"),
        ({"inputs": ["a", {"content": [{"image_base64": "%"}]}]}, "inputs[1]: is not base64", "inputs"),
        ({"messages": [{"content": "a"}, {"content": "b"}]}, "messages: holds more than one", "messages"),
        ({"messages": [{"content": "a", "images": ["AAAA"]}]}, "messages: holds more than one", "messages"),
        (
            {"messages": [{"content": [{"image_url": {"url": "http://a/b"}}]}]},
            "messages: addresses are not opened",
            "messages",
        ),
        ({"messages": [{"role": "user", "content": [{"image_url": {"url": "%"}}]}]}, "messages: is not", "messages"),
        ({"messages": "a"}, "messages: expected an array of objects, got a string", "messages"),
        ({"input": "a", "embedding_type": "ubinary"}, 'embedding_type: "ubinary" is not known', "embedding_type"),
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
    assert response.json()["detail"] == error["message"]
    assert error["message"].startswith(message)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    if body.keys() <= {"input", "dimensions", "encoding_format"}:
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


@pytest.mark.parametrize("path", ["", "/", "/v1/v1"])
def test_a_base_url_without_v1_does_as_well(url: str, path: str) -> None:
    client = openai.OpenAI(base_url=url + path, api_key="x", max_retries=0)
    assert embed(client, "a red star").shape == (1, 64)
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.BadRequestError, match=r"input\[0\]"):
        client.embeddings.create(model=MODEL, input=[[1]])
    with pytest.raises(openai.NotFoundError, match="use POST /v1/embeddings"):
        openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0).completions.create(model=MODEL, prompt="a")


def test_off_by_default_and_the_404_names_the_setting(serve: Callable[..., str]) -> None:
    server = serve(DEMO)
    for base in (f"{server}/v1", server, f"{server}/openai/v1"):
        client = openai.OpenAI(base_url=base, api_key="x", max_retries=0)
        with pytest.raises(openai.NotFoundError, match="ENABLE_EMBEDDINGS_API=1"):
            client.embeddings.create(model=MODEL, input="a")
    for path in ("/v1/models", "/v1/models/any", "/api/embed", "/v2/embed", "/v1/multimodalembeddings"):
        answer = httpx.post(server + path, json={})
        assert answer.status_code == 404 and "ENABLE_EMBEDDINGS_API=1" in answer.text, path
