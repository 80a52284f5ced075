"""A small model hub on loopback, enough for the real hub client (HF_ENDPOINT)."""

import hashlib
import json
import os
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


class Hub:
    """Serves `models`, a map from repository name to a folder.

    `private` repositories need the token "secret". `failures` is how many of the next requests answer `failure`: 503
    those of files, or 429 all, with the `retry_after` that is said. `stop_after` cuts the next download of a file
    above that many bytes short. Weights are said to lie in the storage at `xet` too. Without `names_commit` it is a
    mirror that does not name the commit of a file, and with `portal` a page to log in answers everything. Downloads
    wait until `gate` is open.
    """

    def __init__(self, models: dict[str, Path]) -> None:
        self.models = models
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.failures = 0
        self.failure = 503
        self.retry_after = ""
        self.xet = ""
        self.names_commit = True
        self.portal = False
        self.stop_after: int | None = None
        self.downloads: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.url = ""


def hub_environment(url: str, home: Path, **env: str) -> dict[str, str]:
    """Environment of a process that asks the hub at `url` and keeps its cache in `home`.

    What else is set for hub clients is left out: a model that was loaded in this process has set HF_HUB_OFFLINE.
    """
    names = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return {**names, "HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **env}


class _Server(ThreadingHTTPServer):
    # The client opens many connections at once, and what does not fit waits for seconds.
    request_queue_size = 128


@contextmanager
def serve_hub(models: dict[str, Path], tls: ssl.SSLContext | None = None) -> Iterator[Hub]:
    hub = Hub(models)

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = _Server(("127.0.0.1", 0), Handler)
    hub.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.hub.portal:
            self._send(200, "text/html", b"<html><title>Please log in to the network</title></html>")
            return
        if self.hub.failure == 429 and self.hub.failures > 0:
            self.hub.failures -= 1
            self._error(429, "", {"Retry-After": self.hub.retry_after})
            return
        path = unquote(urlsplit(self.path).path).strip("/")
        parts = path.split("/")
        if parts[:2] == ["api", "models"]:
            name, rest = "/".join(parts[2:4]), parts[4:]
        else:
            name, rest = "/".join(parts[:2]), parts[2:]
        folder = self.hub.models.get(name)
        authorised = self.headers.get("Authorization") == "Bearer secret"
        if folder is None or (name in self.hub.private and not authorised):
            self._error(401 if name in self.hub.private else 404, "RepoNotFound")
        elif name in self.hub.gated and not authorised:
            self._error(403, "GatedRepo")
        elif parts[0] == "api":
            self._api(name, folder, rest)
        else:
            self._file(folder, rest)

    def _api(self, name: str, folder: Path, rest: list[str]) -> None:
        if rest[:1] == ["revision"] and rest[1] not in ("main", self._commit(folder)):
            self._error(404, "RevisionNotFound")
            return
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if rest[:1] == ["tree"]:
            tree = [
                {"type": "file", "path": str(path.relative_to(folder)), "size": path.stat().st_size, "oid": "0"}
                for path in files
            ]
            self._json(tree)
            return
        if rest[:1] == ["xet-read-token"]:
            self._error(200, "", {
                "X-Xet-Cas-Url": self.hub.xet, "X-Xet-Access-Token": "t", "X-Xet-Token-Expiration": str(2**33),
            })  # fmt: skip
            return
        siblings = [{"rfilename": str(path.relative_to(folder))} for path in files]
        self._json({"id": name, "modelId": name, "sha": self._commit(folder), "siblings": siblings, "private": False})

    def _file(self, folder: Path, rest: list[str]) -> None:
        path = folder.joinpath(*rest[2:])
        if not path.is_file():
            self._error(404, "EntryNotFound")
            return
        data = path.read_bytes()
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        body = data[start:]
        if self.command == "GET":
            self.hub.downloads.append(path.name)
            self.hub.gate.wait(60)
            if self.hub.failures > 0:
                self.hub.failures -= 1
                self._error(503, "")
                return
        self.send_response(206 if start else 200)
        if self.hub.names_commit:
            self.send_header("X-Repo-Commit", self._commit(folder))
        if self.hub.xet and path.suffix == ".safetensors":
            token = f"{self.hub.url}/api/models/{'/'.join(self.path.split('/')[1:3])}/xet-read-token/main"
            self.send_header("X-Xet-Hash", hashlib.sha256(data).hexdigest())
            self.send_header("Link", f'<{token}>; rel="xet-auth"')
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            stop, self.hub.stop_after = self.hub.stop_after, None
            if stop is not None and len(body) > stop:
                self.wfile.write(body[:stop])
                self.close_connection = True
            else:
                self.hub.stop_after = stop
                self.wfile.write(body)

    @staticmethod
    def _commit(folder: Path) -> str:
        return hashlib.sha1(str(folder).encode()).hexdigest()

    def _json(self, document: Any) -> None:
        self._send(200, "application/json", json.dumps(document).encode())

    def _error(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self._send(status, "application/json", b"{}", {**({"X-Error-Code": code} if code else {}), **(headers or {})})

    def _send(self, status: int, kind: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Type": kind}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
