"""The server does what its OpenAPI document says: schemathesis finds nothing against it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.support.wire import talk

pytestmark = pytest.mark.served_once

PATHS = ("/vectorize", "/meta", "/metrics", "/health", "/.well-known/live", "/.well-known/ready")


@pytest.fixture(scope="module")
def url(serve: Callable[..., str]) -> str:
    return serve(Path("demo/models"))


def test_schemathesis_finds_nothing(url: str, tmp_path: Path) -> None:
    command = [Path(sys.executable).with_name("schemathesis"), "run", f"{url}/openapi.json", "--no-color"]
    options = ["--max-examples=60", "--generation-deterministic", "--suppress-health-check=all", "--warnings=off"]
    # Strings that the schema allows are seldom base64 of a picture.
    checks = ["--exclude-checks=positive_data_acceptance", "--request-timeout=60"]
    done = subprocess.run(
        [*command, *options, *checks], capture_output=True, text=True, timeout=500, cwd=tmp_path, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_status_and_type_that_is_answered_is_described(url: str) -> None:
    document = httpx.get(f"{url}/openapi.json").json()
    assert document["paths"].keys() == set(PATHS)
    described = document["paths"]["/vectorize"]["post"]["responses"]
    assert described.keys() == {"200", "400", "401", "408", "413", "415", "422", "431", "500", "503"}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for data in (b"%s %s HTTP/1.1\r\nX: %s\r\n\r\n", b"%s %s?%s HTTP/1.1\r\n\r\n"):
                status = talk(url, data % (method.upper().encode(), path.encode(), b"x" * 70_000))[0]
                assert str(status) in operation["responses"]
