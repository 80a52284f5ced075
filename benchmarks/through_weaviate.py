"""Import through a Weaviate by each way of its client, while searches run; print what came of it.

    WEAVIATE_URL=http://localhost:8080 python -m benchmarks.through_weaviate [--pictures 300] [--texts 1000]

WEAVIATE_GRPC_PORT (50051) and WEAVIATE_API_KEY are read too. To compare containers behind the same
Weaviate, name each as Weaviate reaches it; they take turns:

    … python -m benchmarks.through_weaviate --container http://old-clip:8080 --container http://new-clip:8080

Each import has a collection of its own, which is deleted afterwards. One search after another runs
beside it: near_text, with new words each time.
"""

import argparse
import contextlib
import json
import logging
import os
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import weaviate
from weaviate.classes.config import Configure, DataType, Property
from weaviate.classes.data import DataObject
from weaviate.classes.init import AdditionalConfig, Auth, Timeout
from weaviate.collections import Collection
from weaviate.exceptions import WeaviateBaseError

from benchmarks.load import Result, image_bodies, text_bodies

_BATCH = 100

# A way imports the objects and returns how many failed.
Way = Callable[[Collection, list[dict[str, str]]], int]


def insert(collection: Collection, objects: list[dict[str, str]]) -> int:
    failed = 0
    for properties in objects:
        try:
            collection.data.insert(properties)
        except WeaviateBaseError:
            failed += 1
    return failed


def insert_many(collection: Collection, objects: list[dict[str, str]]) -> int:
    failed = 0
    for first in range(0, len(objects), _BATCH):
        batch = [DataObject(properties=properties) for properties in objects[first : first + _BATCH]]
        try:
            failed += len(collection.data.insert_many(batch).errors)
        except WeaviateBaseError:
            failed += len(batch)
    return failed


def in_batches(open_batch: Callable[[Any], Any]) -> Way:
    def way(collection: Collection, objects: list[dict[str, str]]) -> int:
        with open_batch(collection.batch) as batch:
            for properties in objects:
                batch.add_object(properties)
        return len(collection.batch.failed_objects)

    return way


WAYS: dict[str, Way] = {
    "insert": insert,
    "insert_many": insert_many,
    "fixed_size": in_batches(lambda batch: batch.fixed_size(_BATCH, concurrent_requests=2)),
    "dynamic": in_batches(lambda batch: batch.dynamic()),
    "stream": in_batches(lambda batch: batch.stream()),
}


def measure(
    client: weaviate.WeaviateClient, way: Way, objects: list[dict[str, str]], container: str | None
) -> tuple[int, float, Result]:
    """Import the objects into a new collection while searches run, and delete it: how many failed, the seconds it
    took, and the searches."""
    name = f"ThroughWeaviate{uuid.uuid4().hex}"
    pictures = "image" in objects[0]
    client.collections.create(
        name,
        properties=[
            Property(name="image", data_type=DataType.BLOB),
            Property(name="name", data_type=DataType.TEXT),
        ],
        vector_config=Configure.Vectors.multi2vec_clip(
            image_fields=["image"] if pictures else None,
            text_fields=None if pictures else ["name"],
            inference_url=container,
        ),
    )
    collection = client.collections.use(name)
    searches, done = Result(0), threading.Event()
    searcher = threading.Thread(target=search, args=(collection, searches, done))
    try:
        with contextlib.suppress(WeaviateBaseError):
            collection.query.near_text("the first search finds everything cold", limit=1)
        start = time.monotonic()
        searcher.start()
        try:
            failed = way(collection, objects)
        finally:
            seconds = time.monotonic() - start
            done.set()
            searcher.join()
    finally:
        client.collections.delete(name)
    return failed, seconds, searches


def search(collection: Collection, result: Result, done: threading.Event) -> None:
    for words in texts():
        if done.is_set():
            return
        start = time.monotonic()
        try:
            collection.query.near_text(f"looking for {words}", limit=1, return_properties=[])
        except WeaviateBaseError:
            result.failed += 1
        else:
            result.latencies.append(time.monotonic() - start)


def texts() -> Iterator[str]:
    return (json.loads(body)["texts"][0] for body in text_bodies())


def pictures(count: int) -> Iterator[str]:
    bodies = image_bodies(min(64, count))
    return (json.loads(body)["images"][0] for body in islice(bodies, count))


def connect(url: str) -> weaviate.WeaviateClient:
    parts = urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    key = os.environ.get("WEAVIATE_API_KEY")
    return weaviate.connect_to_custom(
        http_host=host,
        http_port=parts.port or (443 if secure else 80),
        http_secure=secure,
        grpc_host=host,
        grpc_port=int(os.environ.get("WEAVIATE_GRPC_PORT") or 50051),
        grpc_secure=secure,
        auth_credentials=Auth.api_key(key) if key else None,
        additional_config=AdditionalConfig(timeout=Timeout(insert=600, query=120)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=300, help="objects with a picture, 800x600 JPEG (300)")
    parser.add_argument("--texts", type=int, default=1000, help="objects with a text (1000)")
    parser.add_argument("--ways", nargs="+", choices=[*WAYS], default=[*WAYS], help="ways of the client (all)")
    parser.add_argument("--container", action="append", metavar="URL", help="a container, as Weaviate reaches it")
    options = parser.parse_args()
    url = os.environ.get("WEAVIATE_URL")
    if not url:
        sys.exit("set WEAVIATE_URL, for example to http://localhost:8080")
    # The client logs what fails as a whole, pictures included.
    logging.getLogger("weaviate-client").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")
    try:
        client = connect(url)
    except WeaviateBaseError as error:
        sys.exit(f"no Weaviate at WEAVIATE_URL={url}: {' '.join(str(error).split())}")
    imports = {
        "pictures": [{"image": picture} for picture in pictures(options.pictures)],
        "texts": [{"name": text} for text in islice(texts(), options.texts)],
    }
    containers = [each.rstrip("/") for each in options.container] if options.container else [None]
    width = max(len(each or "") for each in containers)
    row = f"{{:{width}}} {{:8}} {{:12}} {{:>9}} {{:>7}} {{:>10}} {{:>9}} {{:>7}}"
    print(row.format("", "", "", "objects/s", "failed", "search p50", "p99", "failed"))
    with client:
        for kind, objects in imports.items():
            for way in options.ways if objects else ():
                for container in containers:
                    failed, seconds, searches = measure(client, WAYS[way], objects, container)
                    rate = f"{(len(objects) - failed) / seconds:.1f}"
                    p50, p99 = (f"{searches.percentile(share):.0f} ms" for share in (0.5, 0.99))
                    cells = container or "", kind, way, rate, failed, p50, p99, searches.failed
                    print(row.format(*cells), flush=True)


if __name__ == "__main__":
    main()
