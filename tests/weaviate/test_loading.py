"""Weaviate's requests while the model is being loaded."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.server import ROOT, wait_for_port
from tests.support.weaviate_client import GoClient
from tests.support.weaviate_load import Load
from tests.support.weaviate_start import Start


def test_requests_while_loading_wait(start: Start) -> None:
    port, _ = start()
    url = f"http://127.0.0.1:{port}"
    wait_for_port(url)
    status, _ = GoClient(url).send("GET", "/.well-known/ready")
    assert status == 503, "it was ready before the first request"
    load = Load()
    with ThreadPoolExecutor(40) as pool:
        for number in range(40):
            pool.submit(load.send, lambda number=number: GoClient(url).vectorize([f"text {number}"], []))
    assert (load.answered, load.lost) == (40, {})
    assert GoClient(url).ready().status == 204


def test_requests_that_wait_for_a_model_which_cannot_be_loaded_get_the_cause(start: Start, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "demo/models", tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("compiled"))
    weights = tmp_path / "clip/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    port, process = start(MODELS_DIR=str(tmp_path))
    url = f"http://127.0.0.1:{port}"
    wait_for_port(url)
    with ThreadPoolExecutor(8) as pool:
        body = json.dumps({"texts": ["a"]}).encode()
        answers = [pool.submit(GoClient(url).send, "POST", "/vectorize", body) for _ in range(8)]
    assert process.wait(60) == 1
    assert process.stderr is not None
    log = process.stderr.read()
    for answer in answers:
        status, content = answer.result()
        assert status == 503 and json.loads(content)["error"] in log
    assert "SIGTERM" not in log, "nobody sent a signal"
