"""Nothing is sent, looked up or written home, in any process of a start; seen with strace, as root or not."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.hub import serve_hub
from tests.support.server import ROOT, free_port, wait_for_ready
from tests.support.tiny import clip_pair

STRACE = shutil.which("strace")
CALLS = "trace=connect,sendto,sendmsg,sendmmsg,openat,open,creat,mkdir,mkdirat"


needs_strace = pytest.mark.skipif(
    not STRACE and not os.environ.get("CI"), reason="needs strace (apt-get install strace)"
)


def traced(command: list[str], trace: Path, home: Path, **env: str) -> subprocess.Popen[str]:
    assert STRACE, "this test needs strace (apt-get install strace)"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), **env}
    environment.pop("XDG_CACHE_HOME", None)
    return subprocess.Popen(
        [STRACE, "-f", "--seccomp-bpf", "-qq", "-s", "200", "-e", CALLS, "-o", str(trace), *command],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        process_group=0,
    )


def beyond_loopback(trace: Path) -> list[str]:
    """The calls that name an address elsewhere; a look-up names that of a name server."""
    lines = trace.read_text(errors="replace").splitlines()
    named = [line for line in lines if re.search(r"sa_family=AF_INET6?,", line)]
    return [line for line in named if not re.search(r'inet_addr\("(127\.|0\.0\.0\.0)|"::(1|ffff:127\..*)?",', line)]


@needs_strace
def test_the_tracer_would_see_a_violation(tmp_path: Path) -> None:
    # Connecting a datagram socket sends nothing.
    code = (
        "import pathlib, socket\n"
        "pathlib.Path('~/intel').expanduser().mkdir()\n"
        "socket.socket(type=socket.SOCK_DGRAM).connect(('192.0.2.1', 53))\n"
        "socket.socket(type=socket.SOCK_DGRAM).connect(('127.0.0.1', 53))\n"
    )
    process = traced(
        [sys.executable, "-c", f"import os\nif os.fork() == 0:\n exec({code!r})"], tmp_path / "t", tmp_path / "home"
    )
    process.communicate(timeout=60)
    assert len(beyond_loopback(tmp_path / "t")) == 1
    assert list((tmp_path / "home").iterdir())


@needs_strace
def test_a_first_start_calls_nobody(tiny_models: Path, tmp_path: Path) -> None:
    models, home = tmp_path / "models", tmp_path / "home"
    for name in ("clip", "text"):
        shutil.copytree(tiny_models / name, models / name)
    port = str(free_port())
    process = traced(
        [sys.executable, "-m", "app"],
        tmp_path / "t",
        home,
        MODELS_DIR=str(models),
        HOST="127.0.0.1",
        PORT=port,
        ENGINE="openvino",
    )
    try:
        wait_for_ready(f"http://127.0.0.1:{port}", process)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=60)
    assert list((models / "compiled").glob("*/manifest.json")), "nothing was compiled, so nothing was seen"
    assert not beyond_loopback(tmp_path / "t")
    assert not list(home.rglob("*"))


@needs_strace
def test_baking_calls_the_hub_alone(tmp_path: Path) -> None:
    pair = clip_pair(tmp_path / "pair")
    names = {"CLIP_MODEL_NAME": "someone/clip", "TEXT_MODEL_NAME": "someone/clip"}
    with serve_hub({"someone/clip": pair / "clip"}) as hub:
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_DISABLE_XET": "1"}
        environment |= {"MODELS_DIR": str(tmp_path / "models"), "HF_HUB_OFFLINE": "", **names}
        process = traced([sys.executable, "download.py"], tmp_path / "t", tmp_path / "home", **environment)
        _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert list((tmp_path / "models" / "compiled").glob("*/manifest.json"))
    assert not beyond_loopback(tmp_path / "t")
    assert not list((tmp_path / "home").rglob("*"))


@needs_strace
def test_a_benchmark_calls_nobody(tiny_models: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.fed",
        "--models",
        str(tiny_models),
        "--seconds",
        "0.1",
        "--rounds",
        "1",
    ]
    process = traced(command, tmp_path / "t", tmp_path / "home", ENGINE="openvino")
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert not beyond_loopback(tmp_path / "t")
    assert not list((tmp_path / "home").rglob("*"))


@pytest.mark.parametrize("module", ["benchmarks.fed", "benchmarks.precision", "app.models.bake", "app.models.load"])
def test_openvino_comes_without_its_reporting(module: str) -> None:
    code = f"import {module}, sys; from app.engines.openvino import library; library().Core()\n"
    code += (
        "assert sys.modules.get('openvino_telemetry') is None; assert not sys.modules.get('openvino.tools.ovc') or "
    )
    code += "'telemetry_stub' in sys.modules['openvino.tools.ovc.telemetry_utils'].tm.__name__"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
