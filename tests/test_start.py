"""What is wrong at start is said in one line, and the exit code is not 0."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from app.settings import Settings
from app.sockets import listen
from tests.support.server import free_port, start_server, wait_for_ready
from tests.support.tiny import clip_pair, text_pipeline


def refusal(models: Path, **env: str) -> str:
    process = start_server(models, **{"PORT": str(free_port()), **env})
    _, log = process.communicate(timeout=60)
    assert process.returncode == 1, log
    assert "Traceback" not in log
    return log


@pytest.fixture
def copy(tiny_models: Path, tmp_path: Path) -> Path:
    for name in ("clip", "text"):
        shutil.copytree(tiny_models / name, tmp_path / name)
    return tmp_path


def test_uvicorn_starts_it_too(tiny_models: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "app:app", "--port", str(port)]
    environment = {**os.environ, "MODELS_DIR": str(tiny_models)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_for_ready(f"http://127.0.0.1:{port}")
        assert httpx.post(f"http://127.0.0.1:{port}/vectorize", json={"texts": ["a"]}).status_code == 200
    finally:
        process.terminate()
        process.wait(25)


def test_uvicorn_without_a_model(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "uvicorn", "app:app", "--port", str(free_port())]
    environment = {**os.environ, "MODELS_DIR": str(tmp_path)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode != 0
    assert str(tmp_path / "clip") in result.stderr and "Traceback" not in result.stderr


def test_a_folder_that_is_no_model(copy: Path) -> None:
    (copy / "clip" / "modules.json").unlink()
    assert f"{copy / 'clip'} is not a sentence-transformers model" in refusal(copy)


def test_a_folder_without_weights(copy: Path) -> None:
    (copy / "text" / "model.safetensors").unlink()
    assert f"{copy / 'text'} holds no weights" in refusal(copy)


def test_a_text_model_where_pictures_are_embedded(copy: Path) -> None:
    shutil.rmtree(copy / "clip")
    text_pipeline(copy / "clip")
    assert f"{copy / 'clip'} does not take pictures" in refusal(copy)


def test_no_models(tmp_path: Path) -> None:
    log = refusal(tmp_path / "nothing")
    assert str(tmp_path / "nothing" / "clip") in log
    assert "MODELS_DIR=demo/models" in log and "download.py" in log


def test_truncated_weights(copy: Path) -> None:
    weights = copy / "text" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    log = refusal(copy)
    assert f"cannot load the model in {copy / 'text'}" in log and "copy or bake the model again" in log


def test_git_lfs_pointer(copy: Path) -> None:
    weights = copy / "clip" / "model.safetensors"
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert f"{weights} is a Git LFS pointer" in refusal(copy)


def test_widths_that_differ(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = clip_pair(tmp_path_factory.mktemp("other"), seed=1, width=24)
    shutil.rmtree(copy / "text")
    shutil.copytree(other / "text", copy / "text")
    log = refusal(copy)
    assert "width 24" in log and "width 16" in log


def test_a_gpu_that_is_not_there(tiny_models: Path) -> None:
    assert "ENABLE_CUDA" in refusal(tiny_models, ENABLE_CUDA="True", CUDA_VISIBLE_DEVICES="")


@pytest.mark.parametrize("name, value", [("ENABLE_CUDA", "maybe"), ("PORT", "http"), ("MAX_PIXELS", "-1")])
def test_settings_that_do_not_fit(tiny_models: Path, name: str, value: str) -> None:
    log = refusal(tiny_models, **{name: value})
    assert name in log and value in log


@pytest.mark.parametrize(
    "host, addresses",
    [
        ("", ["127.0.0.1", "::1"]),
        ("::", ["127.0.0.1", "::1"]),
        ("[::]", ["127.0.0.1", "::1"]),
        ("[::1]", ["::1"]),
        ("0.0.0.0", ["127.0.0.1"]),
        ("localhost", ["127.0.0.1"]),
    ],
)
def test_where_it_listens(host: str, addresses: list[str]) -> None:
    sockets = listen(host or Settings.model_fields["host"].default, 0)
    port = sockets[0].getsockname()[1]
    for address in addresses:
        socket.create_connection((address, port), 5).close()
    for sock in sockets:
        sock.close()


def test_a_system_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "AF_INET6", 12345)
    (sock,) = listen("::", 0)
    socket.create_connection(("127.0.0.1", sock.getsockname()[1]), 5).close()
    sock.close()


@pytest.mark.parametrize("host", ["nonsense.invalid", "192.0.2.1", "a..b", "fe80::1%nothing"])
def test_a_host_that_cannot_be_bound(host: str, tmp_path: Path) -> None:
    log = refusal(tmp_path / "no model, which would be said later", HOST=host)
    assert f"HOST='{host}'" in log


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        log = refusal(tmp_path / "no model, which would be said later", PORT=port)
    assert f"PORT={port}" in log and "in use" in log


def test_a_user_without_a_home_and_a_plain_locale(tiny_models: Path, tmp_path: Path) -> None:
    """As `docker run --user 1002700000`: no HOME, and no entry in the list of users."""
    program = (
        "import pwd, runpy\n"
        "def unknown(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = unknown\n"
        "runpy.run_module('app', run_name='__main__', alter_sys=True)\n"
    )
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "LANG", "PYTHONUTF8")}
    environment |= {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "MODELS_DIR": str(tiny_models), "PORT": str(port)}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.PIPE, text=True)
    url = f"http://[::1]:{port}"
    try:
        wait_for_ready(url, process)
        answer = httpx.post(f"{url}/vectorize", content='{"texts": ["größer 木"]}'.encode())
        assert answer.status_code == 200
        assert httpx.get(f"{url}/meta").status_code == 200
    finally:
        process.terminate()
        assert process.wait(25) == 0


def test_meta_of_a_model_whose_configuration_json_libraries_refuse(copy: Path, serve: Callable[..., str]) -> None:
    path = copy / "clip" / "config.json"
    config = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(config | {"large": 2**70, "infinite": float("inf"), "half": "\ud800"}))
    meta = httpx.get(f"{serve(copy, ENGINE='torch')}/meta")
    assert meta.status_code == 200
    json.loads(meta.text)
