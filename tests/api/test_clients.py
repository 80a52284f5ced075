"""POST /v1/embeddings by the libraries that people call it with, and as Weaviate's module for Jina's API does.

With a base URL that ends in /v1 and with one that does not, whatever the client adds to it. Each library is imported
where it is used: they take seconds, also in a process that runs other tests.
"""

import asyncio
import os
import random
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from demo.world import Scene
from tests.support.server import ROOT
from tests.support.vectors import png

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would fetch a list of prices

pytestmark = pytest.mark.served_once

DEMO = ROOT / "demo" / "models"
KEY = "s3cret"
STAR = png(Scene("star", "red", "white", "large", 1, "centre").draw(random.Random(0)))
ITEMS = ["a red star", f"data:image/png;base64,{STAR}", "three blue circles on white"]
BAD = ["fine", "data:image/png;base64,AAAA", "fine"]

# Takes a base URL, a key and items; gives a vector for each.
Client = Callable[[str, str, list[str]], list[list[float]]]


def by_langchain(base_url: str, key: str, items: list[str]) -> list[list[float]]:
    from langchain_openai import OpenAIEmbeddings

    client: Any = OpenAIEmbeddings
    embeddings = client(model="any", base_url=base_url, api_key=key, check_embedding_ctx_length=False, max_retries=0)
    vectors: list[list[float]] = embeddings.embed_documents(items)
    assert np.allclose(embeddings.embed_query(items[0]), vectors[0], atol=1e-4)
    assert np.allclose(asyncio.run(embeddings.aembed_documents(items)), vectors, atol=1e-4)
    return vectors


def by_llama_index(base_url: str, key: str, items: list[str]) -> list[list[float]]:
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding

    embedding = OpenAILikeEmbedding(model_name="any", api_base=base_url, api_key=key, max_retries=0)
    vectors = embedding.get_text_embedding_batch(items)
    assert np.allclose(embedding.get_query_embedding(items[0]), vectors[0], atol=1e-4)
    return vectors


def by_llama_index_for_openai(base_url: str, key: str, items: list[str]) -> list[list[float]]:
    from llama_index.embeddings.openai import OpenAIEmbedding

    embedding = OpenAIEmbedding(model_name="any", api_base=base_url, api_key=key, max_retries=0)
    return embedding.get_text_embedding_batch(items)


def by_litellm(base_url: str, key: str, items: list[str]) -> list[list[float]]:
    import litellm

    answer = litellm.embedding(model="openai/any", input=items, api_base=base_url, api_key=key, max_retries=0)
    assert [each["index"] for each in answer.data] == list(range(len(items)))
    return [each["embedding"] for each in answer.data]


def by_weaviate_for_jina(base_url: str, key: str, items: list[str]) -> list[list[float]]:
    """As Weaviate's multi2vec-jinaai module asks, with its `baseURL` set to us: texts first, then pictures."""
    texts = [item for item in items if not item.startswith("data:")]
    pictures = [item.partition(",")[2] for item in items if item.startswith("data:")]
    answer = httpx.post(
        f"{base_url.rstrip('/')}/v1/embeddings",
        json={
            "input": [{"text": text} for text in texts] + [{"image": picture} for picture in pictures],
            "model": "jina-clip-v2",
            "embedding_type": "float",
            "normalized": True,
        },
        headers={"Authorization": f"Bearer {key}", "x-header-vectordb-source": "Weaviate"},
    )
    body = answer.json()
    assert isinstance(body.get("detail", ""), str)
    if answer.status_code != 200:
        raise RuntimeError(
            f"connection to: JinaAI API failed with status: {answer.status_code} error: {body['detail']}"
        )
    rows = [each["embedding"] for each in body["data"]]
    of_texts, of_pictures = iter(rows[: len(texts)]), iter(rows[len(texts) :])
    return [next(of_pictures if item.startswith("data:") else of_texts) for item in items]


CLIENTS = [by_langchain, by_llama_index, by_llama_index_for_openai, by_litellm, by_weaviate_for_jina]


@pytest.fixture(scope="module")
def url(serve: Callable[..., str]) -> str:
    return serve(DEMO, ENABLE_EMBEDDINGS_API="1", API_TOKEN=KEY)


@pytest.fixture(scope="module")
def url_of_one_without_the_api(serve: Callable[..., str]) -> str:
    return serve(DEMO)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("path", ["/v1", "", "/v1/"])
def test_texts_and_pictures_get_the_vectors_of_vectorize(url: str, client: Client, path: str) -> None:
    texts, images = [ITEMS[0], ITEMS[2]], [STAR]
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = httpx.post(f"{url}/vectorize", json={"texts": texts, "images": images}, headers=headers).json()
    want = [answer["textVectors"][0], answer["imageVectors"][0], answer["textVectors"][1]]
    np.testing.assert_allclose(client(url + path, KEY, ITEMS), np.array(want), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("client", CLIENTS)
def test_their_users_read_our_words(url: str, url_of_one_without_the_api: str, client: Client) -> None:
    position = 2 if client is by_weaviate_for_jina else 1
    with pytest.raises(Exception, match=rf"input\[{position}\]: is no picture that can be read"):
        client(f"{url}/v1", KEY, BAD)
    with pytest.raises(Exception, match="a token is needed"):
        client(f"{url}/v1", "wrong", ["a"])
    with pytest.raises(Exception, match="ENABLE_EMBEDDINGS_API=1"):
        client(f"{url_of_one_without_the_api}/v1", KEY, ["a"])
