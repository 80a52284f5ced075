"""A stand-in for Weaviate: the HTTP and gRPC that its official client sends, the real service behind it."""

import json
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import numpy as np
from weaviate.proto.v1 import base_search_pb2, batch_pb2, health_weaviate_pb2, search_get_pb2, weaviate_pb2_grpc

from tests.support.weaviate_client import ModuleError, Vector
from tests.support.weaviate_module import ClassSettings, Move
from tests.support.weaviate_store import Invalid, Store, Stored

_NODE = {"status": "HEALTHY", "batchStats": {"queueLength": 0, "ratePerSecond": 0}}

_COMBINE: dict[int, Callable[..., Any]] = {
    base_search_pb2.COMBINATION_METHOD_TYPE_SUM: np.sum,
    base_search_pb2.COMBINATION_METHOD_TYPE_AVERAGE: np.mean,
    base_search_pb2.COMBINATION_METHOD_TYPE_MIN: np.min,
    base_search_pb2.COMBINATION_METHOD_UNSPECIFIED: np.min,
}

# In how many parts a batch of a stream is vectorized at the same time.
_STREAM_PARTS = 10


class Standin(weaviate_pb2_grpc.WeaviateServicer):
    """A Weaviate in memory."""

    def __init__(self, container: str, message_bytes: int = 104_858_000) -> None:
        self.version = "1.39.0"
        self.modules = ["multi2vec-clip"]
        self.message_bytes = message_bytes
        self.requests: list[tuple[str, str, Any]] = []
        self.batches: list[batch_pb2.BatchObjectsRequest] = []
        self.searches: list[search_get_pb2.SearchRequest] = []
        self.hangs_up = False
        self.before_batch: Callable[[], grpc.StatusCode | None] = lambda: None
        self.store = Store(container)
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        self._grpc = grpc.server(
            ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", self.message_bytes)]
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

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._grpc.stop(0)

    @property
    def objects(self) -> dict[str, Stored]:
        """The objects of the one class that there is."""
        [objects] = self.store.objects.values()
        return objects

    @property
    def settings(self) -> ClassSettings:
        """The settings of the one class that there is, which has one vector."""
        [name] = self.store.classes
        [settings] = self.store.vectors(name).values()
        return settings

    # HTTP: meta, schema and single objects -----------------------------------------------------

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        standin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # an answer is two writes

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
        path = path.partition("?")[0]
        if path == "/v1/meta":
            modules = {name: self._module_meta() for name in self.modules}
            return 200, {"version": self.version, "grpcMaxMessageSize": self.message_bytes, "modules": modules}
        if path == "/v1/nodes":
            return 200, {"nodes": [_NODE]}
        if (method, path) == ("POST", "/v1/objects"):
            [failure] = self.store.put(payload["class"], [(payload["id"], payload["properties"])])
            return (500, {"error": [{"message": failure}]}) if failure else (200, payload)
        if (method, path) == ("POST", "/v1/schema"):
            try:
                return 200, self.store.create(payload)
            except Invalid as error:
                return 422, {"error": [{"message": str(error)}]}
        name = path.removeprefix("/v1/schema/")
        if name not in self.store.classes:
            return 404, {}
        answer = self.store.classes[name]
        if method == "DELETE":
            self.store.delete(name)
        return 200, answer

    def _module_meta(self) -> dict[str, Any]:
        try:
            return self.store.client.meta()
        except ModuleError as error:
            return {"error": str(error)}

    # gRPC: batches and searches ----------------------------------------------------------------

    def BatchObjects(
        self, request: batch_pb2.BatchObjectsRequest, context: grpc.ServicerContext
    ) -> batch_pb2.BatchObjectsReply:
        self.batches.append(request)
        if code := self.before_batch():
            context.abort(code, "the stand-in was told to")
        failures = self._put_protos(request.objects)
        return batch_pb2.BatchObjectsReply(
            errors=[
                batch_pb2.BatchObjectsReply.BatchError(index=index, error=failure)
                for index, failure in enumerate(failures)
                if failure
            ]
        )

    def BatchStream(
        self, requests: Iterator[batch_pb2.BatchStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[batch_pb2.BatchStreamReply]:
        reply = batch_pb2.BatchStreamReply
        yield reply(started=reply.Started())
        for request in requests:
            if request.HasField("stop"):
                return
            objects = list(request.data.objects.values)
            if not objects:
                continue
            yield reply(acks=reply.Acks(uuids=[each.uuid for each in objects]))
            size = -(-len(objects) // _STREAM_PARTS)
            parts = [objects[first : first + size] for first in range(0, len(objects), size)]
            with ThreadPoolExecutor(len(parts)) as pool:
                failures = [failure for part in pool.map(self._put_protos, parts) for failure in part]
            results = reply.Results()
            for each, failure in zip(objects, failures, strict=True):
                if failure:
                    results.errors.add(error=failure, uuid=each.uuid)
                else:
                    results.successes.add(uuid=each.uuid)
            yield reply(results=results)

    def _put_protos(self, objects: Iterable[batch_pb2.BatchObject]) -> list[str | None]:
        """Store objects of one class; for each why it failed, or None."""
        rows = []
        name = ""
        for each in objects:
            arrays = {array.prop_name: list(array.values) for array in each.properties.text_array_properties}
            rows.append((each.uuid, dict(each.properties.non_ref_properties) | arrays))
            name = each.collection
        return self.store.put(name, rows)

    def Search(
        self, request: search_get_pb2.SearchRequest, context: grpc.ServicerContext
    ) -> search_get_pb2.SearchReply:
        self.searches.append(request)
        store, name = self.store, request.collection
        objects = store.objects[name]
        if request.HasField("filters"):
            assert request.filters.target.property == "_id"
            ids = [each for each in request.filters.value_text_array.values if each in objects]
            return search_get_pb2.SearchReply(results=[_result(each) for each in ids[: request.limit]])
        near = request.near_image if request.HasField("near_image") else request.near_text
        settings = store.vectors(name)
        try:
            queries = {each: self._query(request, settings[each]) for each in near.targets.target_vectors or settings}
        except ModuleError as error:
            context.abort(grpc.StatusCode.UNKNOWN, f"explorer: get class: vectorize params: {error}")
        if not objects:
            return search_get_pb2.SearchReply()
        combine = _COMBINE[near.targets.combination]
        distances = combine([*store.distances(name, queries).values()], axis=0)
        most = near.distance if near.HasField("distance") else np.inf
        if near.HasField("certainty"):
            most = (1 - near.certainty) * 2
        ids, types = list(objects), store.types(name)
        order = [index for index in distances.argsort()[: request.limit] if distances[index] <= most]
        names = request.properties.non_ref_properties
        if not request.HasField("properties") or request.properties.return_all_nonref_properties:
            names = [each for each, type_ in types.items() if not type_.startswith("blob")]
        wanted = [(each, types[each]) for each in names]
        return search_get_pb2.SearchReply(
            results=[
                _result(ids[index], float(distances[index]), objects[ids[index]].properties, wanted)
                for index in order
            ]
        )

    def _query(self, request: search_get_pb2.SearchRequest, settings: ClassSettings) -> Vector:
        if request.HasField("near_image"):
            return self.store.module.near_image(request.near_image.image, settings)
        near = request.near_text
        moves = [
            Move(move.force, tuple(move.concepts)) if near.HasField(name) else None
            for name, move in (("move_to", near.move_to), ("move_away", near.move_away))
        ]
        return self.store.module.near_text(list(near.query), settings, *moves)


def _result(
    id_: str,
    distance: float | None = None,
    properties: dict[str, Any] | None = None,
    wanted: Iterable[tuple[str, str]] = (),
) -> search_get_pb2.SearchResult:
    result = search_get_pb2.SearchResult()
    result.metadata.id, result.metadata.id_as_bytes = id_, uuid.UUID(id_).bytes
    if distance is not None:
        result.metadata.distance, result.metadata.distance_present = distance, True
        result.metadata.certainty, result.metadata.certainty_present = 1 - distance / 2, True
    for name, type_ in wanted:
        if properties and name in properties:
            value = result.properties.non_ref_props.fields[name]
            setattr(value, "blob_value" if type_.startswith("blob") else "text_value", properties[name])
    return result
