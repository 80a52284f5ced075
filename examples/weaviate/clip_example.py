"""What the scripts of this folder share: the connection, names, and errors of one line."""

import logging
import os
import sys
import uuid
import warnings
from argparse import ArgumentParser
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx
import weaviate
from weaviate.classes.init import AdditionalConfig, Auth, Timeout
from weaviate.exceptions import (
    WeaviateBaseError,
    WeaviateConnectionError,
    WeaviateGRPCUnavailableError,
    WeaviateStartUpError,
)

COLLECTION = "ClipExample"
MODULE = "multi2vec-clip"

# The client logs objects that fail as a whole, pictures included, and turns on every warning of every package.
logging.getLogger("weaviate-client").setLevel(os.environ.get("WEAVIATE_LOG_LEVEL") or "CRITICAL")
if not sys.warnoptions:
    warnings.simplefilter("ignore")

# Long enough for a batch of large pictures on a slow CPU.
_INSERT_SECONDS = 300


class Failed(Exception):
    """The script cannot go on; the message says why and what to do."""


def run(main: Callable[[], int]) -> None:
    """Exit with what `main` returns, or with one line that says what is wrong."""
    try:
        status = main()
    except Failed as error:
        sys.exit(f"error: {error}")
    except (WeaviateBaseError, httpx.HTTPError) as error:
        sys.exit(f"error: {one_line(error)}")
    except KeyboardInterrupt:
        sys.exit("stopped")
    sys.exit(status)


def one_line(error: object) -> str:
    return " ".join(str(error).split())


def add_collection_option(parser: ArgumentParser) -> None:
    parser.add_argument("--collection", default=COLLECTION, help=f"name of the collection ({COLLECTION})")


def connect() -> weaviate.WeaviateClient:
    """A client of the Weaviate that WEAVIATE_URL, WEAVIATE_GRPC_PORT and WEAVIATE_API_KEY name."""
    url = os.environ.get("WEAVIATE_URL") or "http://localhost:8080"
    grpc_port = int(os.environ.get("WEAVIATE_GRPC_PORT") or 50051)
    key = os.environ.get("WEAVIATE_API_KEY")
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Failed(f"WEAVIATE_URL={url} is no address; write it as http://localhost:8080")
    try:
        return weaviate.connect_to_custom(
            http_host=parts.hostname,
            http_port=parts.port or (443 if secure else 80),
            http_secure=secure,
            grpc_host=parts.hostname,
            grpc_port=grpc_port,
            grpc_secure=secure,
            auth_credentials=Auth.api_key(key) if key else None,
            additional_config=AdditionalConfig(timeout=Timeout(insert=_INSERT_SECONDS)),
        )
    except WeaviateConnectionError as error:
        raise Failed(f"no Weaviate at {url}; start it with `docker compose up -d`, or set WEAVIATE_URL") from error
    except WeaviateStartUpError as error:  # too old, for one
        raise Failed(one_line(error)) from error
    except WeaviateGRPCUnavailableError as error:
        raise Failed(
            f"Weaviate answers at {url}, but not for gRPC on port {grpc_port}; publish its port 50051, "
            "or set WEAVIATE_GRPC_PORT"
        ) from error
    except (WeaviateBaseError, ValueError, KeyError) as error:
        raise Failed(f"what answers at {url} is no Weaviate, or refuses: {one_line(error)}") from error


def check_container(client: weaviate.WeaviateClient, inference_url: str | None = None) -> None:
    """Raise Failed if Weaviate has no module, or its module no container."""
    if problem := container_problem(client, inference_url):
        raise Failed(f"{problem}; see `docker compose ps {MODULE}`")


def container_problem(client: weaviate.WeaviateClient, inference_url: str | None = None) -> str | None:
    """Why Weaviate's module gets no vectors now; None if it does, as far as Weaviate can tell.

    Weaviate can tell this only of its default container, not of a collection's own `inference_url`.
    Raises Failed if it runs without the module, which no waiting changes.
    """
    modules = client.get_meta().get("modules") or {}
    if MODULE not in modules:
        raise Failed(
            f"this Weaviate runs without {MODULE}; add it to ENABLE_MODULES, set CLIP_INFERENCE_API and restart it"
        )
    problem = modules[MODULE].get("error")
    return f"the {MODULE} container does not answer Weaviate ({problem})" if problem and not inference_url else None


def require_collection(client: weaviate.WeaviateClient, name: str) -> str | None:
    """The inference URL of the collection, if it has its own; raises Failed if there is no such collection."""
    if not client.collections.exists(name):
        raise Failed(f"there is no collection {name}; run create_collection.py first")
    vectors = client.collections.use(name).config.get().vector_config or {}
    models = (vector.vectorizer.model for vector in vectors.values())
    return next((model["inferenceUrl"] for model in models if model.get("inferenceUrl")), None)


def object_id(collection: str, key: str) -> uuid.UUID:
    """The same object gets the same id at every import, so that none is imported twice."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"{collection}/{key}")
