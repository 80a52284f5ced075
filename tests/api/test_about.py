"""What serves: the same words on the page, in the metrics and in the log's first line."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from app.settings import VERSION
from tests.support.server import ROOT, process_of


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_model_family_engine_precision_and_version_are_told(
    serve: Callable[..., str], tiny_models: Path, engine: str
) -> None:
    url = serve(tiny_models, ENGINE=engine)
    told = httpx.get(f"{url}/about").json()
    assert told["family"] == "sentence-transformers" and told["precision"] == "float32" and told["model"]
    assert told["engine"].lower().startswith(engine) and "float32" not in told["engine"]
    assert told["version"] == VERSION
    info = re.search(r"^clip_model_info\{(.*)\} 1.0$", httpx.get(f"{url}/metrics").text, re.M)
    assert info is not None and dict(re.findall(r'(\w+)="([^"]*)"', info[1])) == told


def test_a_compiled_model_alone_tells_as_much(serve: Callable[..., str], tmp_path: Path) -> None:
    shutil.copytree(ROOT / "demo" / "models" / "compiled", tmp_path / "compiled")
    url = serve(tmp_path, measured=True, LOG_FORMAT="json")
    told = httpx.get(f"{url}/about").json()
    assert (told["model"], told["family"], told["precision"]) == (
        "coloured-shapes",
        "sentence-transformers",
        "float32",
    )
    process_of(url).terminate()
    log = process_of(url).stderr
    assert log is not None
    (line,) = [line for line in log if "ready: " in line]
    assert all(f'"{name}": "{value}"' in line for name, value in told.items())


def test_without_the_page_there_is_no_such_route(serve: Callable[..., str], tiny_models: Path) -> None:
    assert httpx.get(f"{serve(tiny_models, ENABLE_PAGE='0')}/about").status_code == 404
