"""examples/weaviate, run as a user runs it: against a stand-in for Weaviate, and a real one if there is one.

The stand-in speaks the HTTP and gRPC that the official client sends, vectorizes through the real
service, and searches exactly. With WEAVIATE_URL (and WEAVIATE_GRPC_PORT) set, the same tests run
against that Weaviate too; its container must serve the demo model.
"""

import base64
import copy
import csv
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import weaviate
from PIL import Image
from weaviate.proto.v1 import batch_pb2, health_weaviate_pb2, search_get_pb2, weaviate_pb2_grpc

from tests.support.server import free_port
from tests.support.weaviate_module import ClassSettings, GoClient, Module, ModuleError, Move, Vector, cosine_distances

DEMO = Path("demo/models")
SCRIPTS = Path("examples/weaviate").resolve()
PICTURES = 120

# Weaviate's check of a blob.
_BLOB = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})")

# What Weaviate adds to a class.
_CLASS_DEFAULTS = {
    "invertedIndexConfig": {
        "bm25": {"b": 0.75, "k1": 1.2},
        "cleanupIntervalSeconds": 60,
        "stopwords": {"preset": "en", "additions": None, "removals": None},
    },
    "multiTenancyConfig": {"enabled": False},
    "replicationConfig": {"factor": 1, "asyncEnabled": False, "deletionStrategy": "NoAutomatedResolution"},
    "shardingConfig": {
        "virtualPerPhysical": 128,
        "desiredCount": 1,
        "actualCount": 1,
        "desiredVirtualCount": 128,
        "actualVirtualCount": 128,
        "key": "_id",
        "strategy": "hash",
        "function": "murmur3",
    },
}
_HNSW_DEFAULTS = {
    "skip": False,
    "cleanupIntervalSeconds": 300,
    "maxConnections": 32,
    "efConstruction": 128,
    "ef": -1,
    "dynamicEfMin": 100,
    "dynamicEfMax": 500,
    "dynamicEfFactor": 8,
    "vectorCacheMaxObjects": 1_000_000_000_000,
    "flatSearchCutoff": 40_000,
    "distance": "cosine",
    "filterStrategy": "sweeping",
}


class Standin(weaviate_pb2_grpc.WeaviateServicer):
    """A Weaviate of one class, in memory."""

    def __init__(self, container: str, message_bytes: int = 104_857_600) -> None:
        self.modules = ["multi2vec-clip"]
        self.message_bytes = message_bytes
        self.requests: list[tuple[str, str, Any]] = []
        self.batches: list[batch_pb2.BatchObjectsRequest] = []
        self.searches: list[search_get_pb2.SearchRequest] = []
        self.hangs_up = False
        self.before_batch: Callable[[], grpc.StatusCode | None] = lambda: None
        self._class: dict[str, Any] | None = None
        self.objects: dict[str, tuple[dict[str, str], Vector]] = {}
        self.connect_container(container)
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        self._grpc = grpc.server(
            ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", self.message_bytes)]
        )
        weaviate_pb2_grpc.add_WeaviateServicer_to_server(self, self._grpc)
        health = grpc.unary_unary_rpc_method_handler(
            lambda *_: health_weaviate_pb2.WeaviateHealthCheckResponse(status="SERVING"),
            request_deserializer=health_weaviate_pb2.WeaviateHealthCheckRequest.FromString,
            response_serializer=health_weaviate_pb2.WeaviateHealthCheckResponse.SerializeToString,
        )
        self._grpc.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": health})]
        )
        self.env = {
            "WEAVIATE_URL": f"http://127.0.0.1:{self._http.server_port}",
            "WEAVIATE_GRPC_PORT": str(self._grpc.add_insecure_port("127.0.0.1:0")),
        }
        self._grpc.start()

    def connect_container(self, url: str) -> None:
        self._client = GoClient(url)
        self._module = Module(self._client, at_once=2 * (os.cpu_count() or 1))

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._grpc.stop(0)

    # HTTP: meta and schema ---------------------------------------------------------------------

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        standin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                if standin.hangs_up:
                    self.close_connection = True
                    return
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                payload = json.loads(body) if body else None
                standin.requests.append((self.command, self.path, json.loads(body) if body else None))
                status, answer = standin.answer(self.command, self.path, payload)
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def answer(self, method: str, path: str, payload: Any) -> tuple[int, Any]:
        if path == "/v1/meta":
            modules = {name: self._module_meta() for name in self.modules}
            return 200, {"version": "1.33.0", "grpcMaxMessageSize": self.message_bytes, "modules": modules}
        if (method, path) == ("POST", "/v1/schema"):
            for vector in payload["vectorConfig"].values():
                vector["vectorIndexConfig"] = _HNSW_DEFAULTS | vector["vectorIndexConfig"]
            for each in payload["properties"]:
                is_text = each["dataType"] == ["text"]
                each |= {"indexFilterable": True, "indexSearchable": is_text, "indexRangeFilters": False}
                if is_text:
                    each["tokenization"] = "word"
            self._class = _CLASS_DEFAULTS | payload
            return 200, self._class
        if self._class and path == f"/v1/schema/{self._class['class']}":
            answer = self._class
            if method == "DELETE":
                self._class, self.objects = None, {}
            return 200, answer
        return 404, {}

    def _module_meta(self) -> dict[str, Any]:
        try:
            return self._client.meta()
        except OSError as error:
            return {"error": f"send GET meta request: {error}"}

    @property
    def settings(self) -> ClassSettings:
        assert self._class
        vectorizer = self._class["vectorConfig"]["default"]["vectorizer"]
        return ClassSettings.parse(vectorizer["multi2vec-clip"])

    # gRPC: batches and searches ----------------------------------------------------------------

    def BatchObjects(
        self, request: batch_pb2.BatchObjectsRequest, context: grpc.ServicerContext
    ) -> batch_pb2.BatchObjectsReply:
        self.batches.append(request)
        if code := self.before_batch():
            context.abort(code, "the stand-in was told to")
        objects = [dict(each.properties.non_ref_properties) for each in request.objects]
        vectors = self._module.vectorize_batch(objects, self.settings)
        errors = []
        for index, (each, properties, vector) in enumerate(zip(request.objects, objects, vectors, strict=True)):
            assert _BLOB.fullmatch(properties["image"])
            if isinstance(vector, Exception):
                reason = str(vector) if isinstance(vector, ModuleError) else f"send POST request: {vector}"
                errors.append(batch_pb2.BatchObjectsReply.BatchError(index=index, error=reason))
            else:
                self.objects[each.uuid] = properties, vector
        return batch_pb2.BatchObjectsReply(errors=errors)

    def Search(
        self, request: search_get_pb2.SearchRequest, context: grpc.ServicerContext
    ) -> search_get_pb2.SearchReply:
        self.searches.append(request)
        if request.HasField("filters"):
            assert request.filters.target.property == "_id"
            ids = [each for each in request.filters.value_text_array.values if each in self.objects]
            return search_get_pb2.SearchReply(results=[_result(each) for each in ids[: request.limit]])
        near = request.near_image if request.HasField("near_image") else request.near_text
        try:
            query = self._query(request)
        except (ModuleError, OSError) as error:
            context.abort(grpc.StatusCode.UNKNOWN, f"explorer: get class: vectorize params: {error}")
        ids = list(self.objects)
        distances = cosine_distances(query, np.array([self.objects[each][1] for each in ids]))
        most = near.distance if near.HasField("distance") else 2.0
        if near.HasField("certainty"):
            most = (1 - near.certainty) * 2
        order = [index for index in distances.argsort()[: request.limit] if distances[index] <= most]
        wanted = request.properties.non_ref_properties
        return search_get_pb2.SearchReply(
            results=[
                _result(ids[index], float(distances[index]), self.objects[ids[index]][0], wanted) for index in order
            ]
        )

    def _query(self, request: search_get_pb2.SearchRequest) -> Vector:
        if request.HasField("near_image"):
            return self._module.near_image(request.near_image.image, self.settings)
        near = request.near_text
        moves = [
            Move(move.force, tuple(move.concepts)) if near.HasField(name) else None
            for name, move in (("move_to", near.move_to), ("move_away", near.move_away))
        ]
        return self._module.near_text(list(near.query), self.settings, *moves)


def _result(
    id: str, distance: float | None = None, properties: dict[str, str] | None = None, wanted: Any = ()
) -> search_get_pb2.SearchResult:
    result = search_get_pb2.SearchResult()
    result.metadata.id, result.metadata.id_as_bytes = id, uuid.UUID(id).bytes
    if distance is not None:
        result.metadata.distance, result.metadata.distance_present = distance, True
        result.metadata.certainty, result.metadata.certainty_present = 1 - distance / 2, True
    for name in wanted:
        if properties and name in properties:
            value = result.properties.non_ref_props.fields[name]
            setattr(value, "blob_value" if name == "image" else "text_value", properties[name])
    return result


# running the scripts ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def container(serve: Callable[..., str]) -> str:
    return serve(DEMO)


@pytest.fixture
def standin(container: str) -> Iterator[Standin]:
    with closing(Standin(container)) as standin:
        yield standin


def at_once(calls: Iterable[Callable[[], str]]) -> list[str]:
    """What each call gives; two run at a time, as a script spends most of its time on imports."""
    with ThreadPoolExecutor(2) as pool:
        return [each.result() for each in [pool.submit(call) for call in calls]]


def run_script(name: str, *arguments: str | Path, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPTS / name), *map(str, arguments)],
        env={**os.environ, **env},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )


class User:
    """Somebody in a folder of their own, with a Weaviate."""

    def __init__(self, folder: Path, env: dict[str, str], collection: str = "ClipExample") -> None:
        self.folder = folder
        self.env = env
        self.collection = collection

    def run(self, name: str, *arguments: str | Path) -> str:
        """What the script prints; fails unless it exits with 0."""
        result = self.try_(name, *arguments)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def fail(self, name: str, *arguments: str | Path) -> str:
        """The one line with which the script fails."""
        result = self.try_(name, *arguments)
        assert result.returncode == 1, result.stdout + result.stderr
        *_, line = result.stderr.splitlines()
        assert line.startswith("error: "), result.stderr
        assert "Traceback" not in result.stderr
        return line

    def try_(self, name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        option = () if name == "draw_pictures.py" else ("--collection", self.collection)
        return run_script(name, *arguments, *option, env=self.env, cwd=self.folder)


@pytest.fixture
def user(standin: Standin, tmp_path: Path) -> User:
    return User(tmp_path, standin.env)


@pytest.fixture(scope="module")
def documented_class(container: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What create_collection.py sends."""
    with closing(Standin(container)) as standin:
        User(tmp_path_factory.mktemp("user"), standin.env).run("create_collection.py")
        [sent] = [body for method, path, body in standin.requests if (method, path) == ("POST", "/v1/schema")]
    return sent


@pytest.fixture
def importer(standin: Standin, user: User, documented_class: dict[str, Any]) -> User:
    """A user whose collection is there."""
    standin.answer("POST", "/v1/schema", copy.deepcopy(documented_class))
    return user


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    result = run_script("draw_pictures.py", "--count", str(PICTURES), env={}, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "shapes"


def pictures_of(shapes: Path) -> list[dict[str, str]]:
    with (shapes / "pictures.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# the walk through the README, against the stand-in and a real Weaviate -------------------------


@pytest.fixture(scope="module", params=["stand-in", "real"])
def walker(
    request: pytest.FixtureRequest, container: str, shapes: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[User]:
    """A user who has created the collection and imported the drawn pictures."""
    folder = tmp_path_factory.mktemp("user")
    if request.param == "real":
        if not os.environ.get("WEAVIATE_URL"):
            pytest.skip("WEAVIATE_URL is not set: the example is not tried against a real Weaviate")
        user = User(folder, {}, f"ClipExampleTest{uuid.uuid4().hex}")
        try:
            import_shapes(user, shapes)
            yield user
        finally:
            delete_collection(user.collection)
    else:
        with closing(Standin(container)) as standin:
            user = User(folder, standin.env)
            import_shapes(user, shapes)
            yield user


def import_shapes(user: User, shapes: Path) -> None:
    user.run("create_collection.py")
    result = user.try_("import_images.py", shapes / "pictures.csv")
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"imported {PICTURES}, there already 0, failed 0" in result.stdout
    assert "pictures/s" in result.stderr, "no progress bar"


def delete_collection(name: str) -> None:
    sys.path.insert(0, str(SCRIPTS))
    try:
        from clip_example import connect
    finally:
        sys.path.remove(str(SCRIPTS))
    with connect() as client:
        client.collections.delete(name)


def hits(output: str) -> list[tuple[float, float, str]]:
    """Distance, certainty and path of each row of the table."""
    rows = [line.split() for line in output.splitlines() if re.match(r" *\d+ ", line)]
    return [(float(row[1]), float(row[2]), row[-1]) for row in rows]


def test_words_find_the_picture(walker: User, shapes: Path) -> None:
    rows = [pictures_of(shapes)[number] for number in (3, 40)]
    outputs = at_once(
        partial(walker.run, "search.py", "--text", row["name"], "--limit", "5", "--sheet", row["path"])
        for row in rows
    )
    for row, output in zip(rows, outputs, strict=True):
        assert len(hits(output)) == 5
        assert hits(output)[0][2] == row["path"]
        for distance, certainty, _ in hits(output):
            assert certainty == pytest.approx(1 - distance / 2, abs=1e-3)


def test_a_picture_finds_its_like_and_the_sheet_shows_it(walker: User, shapes: Path) -> None:
    outputs = at_once(
        partial(walker.run, "search.py", "--image", path, "--limit", "7", "--sheet", path.name)
        for path in sorted((shapes / "queries").iterdir())
    )
    found = [hits(output)[0][2] for output in outputs]
    assert sum(name == f"{number:04}.png" for number, name in enumerate(found, 1)) >= 4
    with Image.open(walker.folder / "like-0003.png") as sheet:
        assert sheet.width > 5 * 180
        assert sheet.height > 3 * 180, "the query and two rows of hits"
        assert len(sheet.getcolors(sheet.width * sheet.height) or []) > 50, "nothing is drawn"


def test_thresholds(walker: User, shapes: Path) -> None:
    name = pictures_of(shapes)[3]["name"]
    search = "search.py", "--text", name, "--limit", "30"
    all_hits = hits(walker.run(*search))
    middle = all_hits[10][0] + 1e-4
    near, certain, nothing = at_once(
        partial(walker.run, *search, *bound, "--sheet", f"{number}.png")
        for number, bound in enumerate(
            (
                ("--distance", f"{middle:.5f}"),
                ("--certainty", f"{1 - middle / 2:.5f}"),
                ("--distance", "0"),
            )
        )
    )
    assert hits(near) == hits(certain) == all_hits[:11]
    assert "no hits" in nothing


def test_moves_shift_the_hits(walker: User, shapes: Path) -> None:
    rows = pictures_of(shapes)
    name, target = rows[3]["name"], rows[40]
    options: list[tuple[str, ...]] = [
        (),
        ("--move-to", target["name"], "--move-to-force", "0.9"),
        ("--move-away", target["name"], "--move-away-force", "0.9"),
        ("--move-to", target["name"], "--move-to-force", "0"),
    ]
    outputs = at_once(
        partial(walker.run, "search.py", "--text", name, "--limit", str(PICTURES), "--sheet", f"{number}.png", *each)
        for number, each in enumerate(options)
    )
    plain, to, away, nowhere = ([path for _, _, path in hits(output)].index(target["path"]) for output in outputs)
    assert to < plain < away
    assert nowhere == plain


def test_a_second_import_imports_nothing(walker: User, shapes: Path) -> None:
    assert f"imported 0, there already {PICTURES}, failed 0" in walker.run(
        "import_images.py", shapes / "pictures.csv"
    )


def test_what_fails_is_listed_with_the_reason_of_the_service(walker: User, shapes: Path) -> None:
    folder = walker.folder / "photos"
    folder.mkdir()
    good = (shapes / "0001.png").read_bytes()
    (folder / "good.png").write_bytes(good)
    (folder / "half.png").write_bytes(good[: len(good) // 2])
    (folder / "drawing.svg.png").write_text("<svg></svg>")
    result = walker.try_("import_images.py", "photos")
    assert result.returncode == 1
    assert "imported 1, there already 0, failed 2" in result.stdout
    with (walker.folder / "failures.csv").open(newline="") as file:
        failures = {Path(row["path"]).name: row["reason"] for row in csv.DictReader(file)}
    assert failures.keys() == {"half.png", "drawing.svg.png"}
    assert "images[0]: is a broken picture" in failures["half.png"]
    assert "images[0]: is no picture that can be read; it looks like an SVG" in failures["drawing.svg.png"]

    (folder / "half.png").write_bytes(good)
    (folder / "drawing.svg.png").unlink()
    assert "imported 1, there already 1, failed 0" in walker.run("import_images.py", "photos")
    assert not (walker.folder / "failures.csv").exists()


def test_a_search_says_what_the_service_has_against_the_picture(walker: User) -> None:
    (walker.folder / "page.png").write_text("<html></html>")
    assert "images[0]: is no picture that can be read; it looks like an HTML page" in walker.fail(
        "search.py", "--image", "page.png"
    )


# what is sent, against the stand-in alone ------------------------------------------------------


def test_the_class_is_the_documented_one(documented_class: dict[str, Any]) -> None:
    sent = documented_class
    assert sent["class"] == "ClipExample"
    assert {each["name"]: each["dataType"] for each in sent["properties"]} == {
        "name": ["text"],
        "image": ["blob"],
        "path": ["text"],
    }
    [vector] = sent["vectorConfig"].values()
    assert vector["vectorizer"] == {
        "multi2vec-clip": {
            "imageFields": ["image"],
            "textFields": ["name"],
            "weights": {"imageFields": [0.3], "textFields": [0.7]},
        }
    }
    assert vector["vectorIndexType"] == "hnsw"
    assert vector["vectorIndexConfig"]["distance"] == "cosine"


def test_a_collection_is_replaced_only_if_asked(standin: Standin, user: User) -> None:
    user.run("create_collection.py")
    assert "--recreate" in user.fail("create_collection.py")
    user.run("create_collection.py", "--recreate", "--text-weight", "1", "--image-weight", "0")
    assert standin.settings == ClassSettings(text_fields=("name",), text_weights=(1,))
    assert [request[0] for request in standin.requests if "schema" in request[1]].count("DELETE") == 1


def test_a_collection_with_a_container_of_its_own(standin: Standin, user: User, shapes: Path, container: str) -> None:
    standin.connect_container(f"http://127.0.0.1:{free_port()}")
    assert "does not answer" in user.fail("create_collection.py")
    user.run("create_collection.py", "--inference-url", f"{container}/")
    assert standin.settings.inference_url == container
    assert f"imported {PICTURES}" in user.run("import_images.py", shapes / "pictures.csv")
    assert hits(user.run("search.py", "--image", shapes / "0007.png"))[0][2] == "0007.png"


def test_objects_as_they_are_sent(standin: Standin, importer: User, shapes: Path) -> None:
    (importer.folder / "some.csv").write_text(
        f"id,path,name\nkey 1,{shapes / '0001.png'},a red ring\nkey 2,{shapes / '0002.png'},\n"
    )
    importer.run("import_images.py", "some.csv")
    [batch] = standin.batches
    first, second = (dict(each.properties.non_ref_properties) for each in batch.objects)
    assert first.keys() == {"image", "name", "path"}
    assert second.keys() == {"image", "path"}, "an empty text would be vectorized"
    assert base64.b64decode(first["image"]) == (shapes / "0001.png").read_bytes()
    assert batch.objects[0].uuid == str(uuid.uuid5(uuid.NAMESPACE_URL, "ClipExample/key 1"))
    importer.run("import_images.py", "some.csv", "--overwrite")
    assert [each.uuid for each in standin.batches[1].objects] == [each.uuid for each in batch.objects]
    assert len(standin.objects) == 2


def test_pictures_without_texts_where_texts_do_not_count(standin: Standin, user: User, shapes: Path) -> None:
    """Weaviate would give such a picture the weight of the text."""
    user.run("create_collection.py", "--text-weight", "0", "--image-weight", "1")
    user.run("import_images.py", shapes / "queries")
    assert len(standin.objects) == 5
    assert all(np.linalg.norm(vector) > 1 for _, vector in standin.objects.values())


def test_names_of_files_as_texts(standin: Standin, importer: User, shapes: Path) -> None:
    (importer.folder / "photos" / "deep").mkdir(parents=True)
    (importer.folder / "photos" / "deep" / "green_star-left.PNG").write_bytes((shapes / "0001.png").read_bytes())
    (importer.folder / "photos" / "notes.txt").write_text("no picture")
    importer.run("import_images.py", "photos", "--names-as-text")
    [(properties, _)] = standin.objects.values()
    assert properties["name"] == "green star left"
    assert properties["path"] == "deep/green_star-left.PNG"


def test_batches_keep_to_their_size_and_to_weaviates_message_size(
    container: str, tmp_path: Path, shapes: Path, documented_class: dict[str, Any]
) -> None:
    with closing(Standin(container, message_bytes=20_000)) as standin:
        standin.answer("POST", "/v1/schema", copy.deepcopy(documented_class))
        User(tmp_path, standin.env).run("import_images.py", shapes / "pictures.csv", "--batch-size", "50")
        assert len(standin.objects) == PICTURES
        assert max(len(batch.objects) for batch in standin.batches) <= 50
        assert max(batch.ByteSize() for batch in standin.batches) < 20_000
        assert len(standin.batches) > 3


def test_a_batch_that_fails_as_a_whole_is_sent_in_halves(standin: Standin, importer: User, shapes: Path) -> None:

    def too_slow() -> grpc.StatusCode | None:
        return grpc.StatusCode.DEADLINE_EXCEEDED if len(standin.batches[-1].objects) > 40 else None

    standin.before_batch = too_slow
    importer.run("import_images.py", shapes / "pictures.csv")
    assert len(standin.objects) == PICTURES


def test_each_of_a_batch_that_fails_wholly_has_its_own_reason(importer: User) -> None:
    (importer.folder / "photos").mkdir()
    (importer.folder / "photos" / "a.png").write_text("<html>")
    (importer.folder / "photos" / "b.png").write_text("%PDF-1.7")
    (importer.folder / "photos" / "c.png").write_text("<svg/>")
    assert importer.try_("import_images.py", "photos").returncode == 1
    with (importer.folder / "failures.csv").open(newline="") as file:
        reasons = [row["reason"] for row in csv.DictReader(file)]
    assert [reason.split("it looks like ")[1] for reason in reasons] == ["an HTML page", "a PDF", "an SVG"]


def test_an_import_goes_on_where_the_container_left_it(
    standin: Standin, importer: User, shapes: Path, container: str
) -> None:

    def stop_container() -> None:
        if len(standin.batches) == 3:
            standin.connect_container(f"http://127.0.0.1:{free_port()}")

    standin.before_batch = stop_container
    import_ = "import_images.py", shapes / "pictures.csv", "--batch-size", "20"
    assert "the container no longer answers Weaviate" in importer.fail(*import_)
    assert len(standin.objects) == 40
    standin.before_batch = lambda: None
    standin.connect_container(container)
    assert f"imported {PICTURES - 40}, there already 40, failed 0" in importer.run(*import_)


def test_an_import_stops_when_weaviate_stops(standin: Standin, importer: User, shapes: Path) -> None:

    def stop() -> grpc.StatusCode | None:
        if len(standin.batches) < 3:
            return None
        standin.hangs_up = True
        return grpc.StatusCode.INTERNAL

    standin.before_batch = stop
    line = importer.fail("import_images.py", shapes / "pictures.csv", "--batch-size", "20")
    assert "Weaviate no longer answers" in line
    assert "run the same command again" in line


def test_files_that_cannot_be_read_are_listed(standin: Standin, importer: User, shapes: Path) -> None:
    (importer.folder / "some.csv").write_text(f"path,name\n{shapes / '0001.png'},one\nnowhere.png,two\n")
    assert importer.try_("import_images.py", "some.csv").returncode == 1
    assert "nowhere.png" in (failures := (importer.folder / "failures.csv").read_text())
    assert "cannot read the file: No such file" in failures
    assert len(standin.objects) == 1


def test_the_readme_shows_what_is_printed(user: User) -> None:
    text = (SCRIPTS / "README.md").read_text().replace("\\\n", "")
    commands = [shlex.split(line) for line in re.findall(r"^python examples/weaviate/(.*)", text, re.M)][:6]
    for command in commands[:3]:
        user.run(*command)
    outputs = at_once(
        partial(user.run, *command, "--sheet", f"{number}.png") for number, command in enumerate(commands[3:])
    )
    tables = re.findall(r"^```\n(  # distance .*?)^```", text, re.M | re.S)
    assert len(tables) == 3
    for table, output in zip(tables, outputs, strict=True):
        np.testing.assert_allclose(*([hit[0] for hit in hits(each)] for each in (table, output)), atol=2e-3)
        assert [hit[2] for hit in hits(table)] == [hit[2] for hit in hits(output)]


# messages --------------------------------------------------------------------------------------


def test_who_is_not_there_is_named(standin: Standin, tmp_path: Path, container: str) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    user = User(tmp_path, standin.env)
    calls = {
        f"no Weaviate at {nobody}; start it with": partial(
            User(tmp_path, {"WEAVIATE_URL": nobody}).fail, "create_collection.py"
        ),
        "is no Weaviate": partial(User(tmp_path, {"WEAVIATE_URL": container}).fail, "create_collection.py"),
        "not for gRPC": partial(
            User(tmp_path, standin.env | {"WEAVIATE_GRPC_PORT": str(free_port())}).fail, "create_collection.py"
        ),
        "run create_collection.py first": partial(user.fail, "import_images.py", tmp_path),
        "there is no collection ClipExample": partial(user.fail, "search.py", "--text", "a"),
    }
    for message, line in zip(calls, at_once(calls.values()), strict=True):
        assert message in line
    standin.connect_container(nobody)
    assert "container does not answer Weaviate" in user.fail("create_collection.py")
    standin.modules = []
    assert "ENABLE_MODULES" in user.fail("create_collection.py")


def test_a_source_that_cannot_be_used(tmp_path: Path) -> None:
    tables = {
        "file,name\na.png,one\n": "has no column `path`, only file, name",
        "path,name\n": "has no rows",
        "path,name\na.png,one\n,two\n": "row 3: `path` is empty",
        "path,name\na.png,one\na.png,two\n": "row 3: a.png is in row 2 already",
    }
    sources = {"nothing": "neither a folder nor a CSV", "nothing.csv": "cannot read", ".": "no pictures in"}
    for number, (content, message) in enumerate(tables.items()):
        (tmp_path / f"{number}.csv").write_text(content)
        sources[f"{number}.csv"] = message
    lines = at_once(partial(User(tmp_path, {}).fail, "import_images.py", source) for source in sources)
    for line, message in zip(lines, sources.values(), strict=True):
        assert message in line


def test_a_search_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    def refused(*arguments: str) -> str:
        result = run_script("search.py", *arguments, env={}, cwd=tmp_path)
        assert result.returncode == 2, arguments
        return result.stderr

    for line in at_once(
        partial(refused, *arguments)
        for arguments in (
            (),
            ("--text", "a", "--image", "b.png"),
            ("--image", "b.png", "--move-to", "a"),
            ("--text", "a", "--distance", "1", "--certainty", "1"),
            ("--text", "a", "--move-to", "b", "--move-to-force", "2"),
            ("--text", "a", "--limit", "0"),
        )
    ):
        assert "usage: search.py" in line


def test_the_same_packages_as_the_service() -> None:
    """One environment serves both, and the tests run what the example pins."""

    def pins(path: Path) -> dict[str, str]:
        return dict(re.findall(r"^([\w.-]+)==(\S+)$", path.read_text(), re.M))

    ours = pins(Path("requirements.txt")) | pins(Path("requirements/dev.txt"))
    example = pins(SCRIPTS / "requirements.txt")
    assert example.keys() == {"numpy", "pillow", "tqdm", "weaviate-client"}
    assert example == {name: ours[name] for name in example}
    assert weaviate.__version__ == example["weaviate-client"]
