"""Compiled models: made once, bound to their files, loaded without torch, never half."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from app.engines.openvino import library
from tests.support.compiled import assert_like_reference, compile_now, compiled, without
from tests.support.server import free_port, start_server, wait_for_ready
from tests.support.tiny import clip_pair, text_pipeline
from tests.support.vectors import ask, pictures

Serve = Callable[..., str]


@pytest.fixture
def models(tiny_models: Path, tmp_path: Path) -> Path:
    """A copy that came without compiled towers."""
    folder = tmp_path / "models"
    for name in ("clip", "text"):
        shutil.copytree(tiny_models / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def form(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of their compiled form, made once."""
    place = tmp_path_factory.mktemp("form") / "compiled"
    compile_now(tiny_models, place)
    return place


def test_a_baked_model_is_served_without_torch(serve: Serve, models: Path, form: Path, tmp_path: Path) -> None:
    shutil.copytree(form, models / "compiled")
    libraries = without(tmp_path, "torch", "transformers", "sentence_transformers")
    assert_like_reference(serve(models, ENGINE="openvino", PYTHONPATH=libraries), models)


def test_a_baked_text_pipeline_is_served_without_torch(serve: Serve, models: Path, tmp_path: Path) -> None:
    shutil.rmtree(models / "text")
    text_pipeline(models / "text")
    compile_now(models, models / "compiled")
    libraries = without(tmp_path, "torch", "transformers", "sentence_transformers")
    assert_like_reference(serve(models, ENGINE="openvino", PYTHONPATH=libraries), models)


def test_the_compiled_model_alone_is_served(serve: Serve, models: Path, form: Path, tmp_path: Path) -> None:
    shutil.copytree(form, tmp_path / "alone" / "compiled")
    alone = tmp_path / "alone"
    (alone / "trust_remote_code").write_text("false")
    libraries = without(tmp_path, "torch", "transformers", "sentence_transformers")
    assert_like_reference(serve(alone, PYTHONPATH=libraries), models)


def test_the_compiled_model_alone_says_what_it_cannot_do(models: Path, form: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(form, alone / "compiled")

    def refusal(**env: str) -> str:
        process = start_server(alone, PORT=str(free_port()), **env)
        _, log = process.communicate(timeout=60)
        assert process.returncode == 1 and "Traceback" not in log, log
        return log

    assert "DEVICE=cuda" in refusal(ENABLE_CUDA="1")
    assert "DEVICE=cuda" in refusal(ENGINE="torch")
    manifest = next(alone.glob("compiled/*/manifest.json"))
    described = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**described, "version": "1999"}))
    assert "bake the model again" in refusal()
    shutil.copytree(models / "text", alone / "text")  # another model beside it is never passed over in silence
    assert f"{alone / 'clip'}" in refusal()


def test_compiled_again_when_the_weights_change(serve: Serve, models: Path, form: Path, tmp_path: Path) -> None:
    shutil.copytree(form, models / "compiled")
    first = compiled(models / "compiled")
    other = clip_pair(tmp_path / "other", seed=5)
    for name in ("clip", "text"):
        target = models / name / "model.safetensors"
        before = target.stat()
        shutil.copyfile(other / name / "model.safetensors", target)
        assert target.stat().st_size == before.st_size
        os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert_like_reference(serve(models, ENGINE="openvino"), models)
    assert len(compiled(models / "compiled")) == 1
    assert compiled(models / "compiled") != first


def test_two_first_starts_at_once(serve: Serve, models: Path) -> None:
    ports = [str(free_port()), str(free_port())]
    processes = [start_server(models, ENGINE="openvino", PORT=port) for port in ports]
    try:
        for port, process in zip(ports, processes, strict=True):
            url = f"http://127.0.0.1:{port}"
            wait_for_ready(url, process)
            assert_like_reference(url, models)
    finally:
        for process in processes:
            process.terminate()
            assert process.wait(25) == 0
    assert len(compiled(models / "compiled")) == 1
    assert not list((models / "compiled").glob(".making-*"))


def test_a_model_folder_that_cannot_be_written(serve: Serve, models: Path, tmp_path: Path) -> None:
    (models / "compiled").write_text("a file, so that no folder can be made here, not even by root")
    cache = tmp_path / "cache"
    assert_like_reference(serve(models, ENGINE="openvino", CACHE_DIR=str(cache)), models)
    assert len(compiled(cache / "compiled")) == 1


def test_no_folder_can_be_written(serve: Serve, models: Path) -> None:
    (models / "compiled").write_text("a file")
    assert_like_reference(serve(models, ENGINE="openvino", CACHE_DIR=str(models / "compiled")), models)


def test_an_interrupted_write_is_never_loaded(serve: Serve, models: Path) -> None:
    place = models / "compiled"
    command = [sys.executable, "-m", "app", "compile", "--output", str(place)]
    process = subprocess.Popen(command, env={**os.environ, "MODELS_DIR": str(models)}, stderr=subprocess.DEVNULL)
    while not list(place.glob(".making-*/*.xml")):
        assert process.poll() is None, "finished before it could be interrupted"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(place.glob(".making-*")) and not compiled(place)
    assert_like_reference(serve(models, ENGINE="openvino"), models)
    assert len(compiled(place)) == 1


def test_a_precision_is_served_or_refused_by_name(serve: Serve, models: Path) -> None:
    able = library().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" in able:
        vectors = np.array(ask(serve(models, PRECISION="bfloat16"))["imageVectors"])
        reference = SentenceTransformer(str(models / "clip"), device="cpu").encode(pictures(), batch_size=1)
        cosines = (vectors * reference).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(reference, axis=1)
        assert 0.99 < cosines.min() < 0.9999999
    process = start_server(models, PORT=str(free_port()), ENGINE="torch", PRECISION="float16")
    _, log = process.communicate(timeout=60)
    assert process.returncode == 1 and "PRECISION=float16" in log and "float32" in log
