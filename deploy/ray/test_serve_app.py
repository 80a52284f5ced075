"""serve_app.py on this machine, with two replicas: `make ray-test`."""

import asyncio
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.load import image_bodies, load, text_bodies  # noqa: E402

CONNECTIONS = 16


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_for_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "it ended"
        try:
            if httpx.get(f"http://127.0.0.1:{port}/.well-known/ready").status_code == 204:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError("not ready within 120 s")


def replicas() -> dict[int, float]:
    """CPU seconds so far of each replica, by process id."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and b"ServeReplica" in (folder / "cmdline").read_bytes():
                fields = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
                found[int(folder.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except OSError:
            continue
    return found


@dataclass
class Answers:
    statuses: Counter[int] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)


async def ask_for(port: int, seconds: float) -> Answers:
    """What CONNECTIONS clients get that send their next request when the last is answered."""
    answers = Answers()
    end = time.monotonic() + seconds
    bodies = text_bodies()

    async def client() -> None:
        async with httpx.AsyncClient(timeout=30) as http:
            while time.monotonic() < end:
                try:
                    answer = await http.post(f"http://127.0.0.1:{port}/vectorize", content=next(bodies))
                    answers.statuses[answer.status_code] += 1
                except httpx.TransportError as error:
                    answers.broken.append(repr(error))

    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    return answers


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in ("clip", "text"):
        shutil.copytree(ROOT / "demo" / "models" / name, folder / name)
    command = [sys.executable, "-m", "app", "compile"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "MODELS_DIR": str(folder)}, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def serving(models: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    port = free_port()
    environment = {**os.environ, "MODELS_DIR": str(models), "HOST": "127.0.0.1", "PORT": str(port)}
    command = [sys.executable, str(ROOT / "deploy/ray/serve_app.py")]
    command += ["--min-replicas", "2", "--max-replicas", "2", "--cpus", "1"]
    began = time.monotonic()
    process = subprocess.Popen(command, env=environment)
    try:
        wait_for_ready(port, process)
        print(f"\nready {time.monotonic() - began:.1f} s after the start")
        while len(replicas()) < 2:
            assert time.monotonic() < began + 120
            time.sleep(0.1)
        yield port, process
    finally:
        process.terminate()
        process.wait(90)


Serving = tuple[int, subprocess.Popen[bytes]]


def test_the_contract_holds(serving: Serving) -> None:
    command = [sys.executable, str(ROOT / "tests/support/contract_check.py"), f"http://127.0.0.1:{serving[0]}"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_the_load_spreads(serving: Serving) -> None:
    before = replicas()
    answers = asyncio.run(ask_for(serving[0], 5))
    used = {pid: seconds - before[pid] for pid, seconds in replicas().items()}
    print(f"\nCPU seconds of each replica: {[round(seconds, 2) for seconds in used.values()]}")
    assert len(used) == 2 and set(answers.statuses) == {200} and not answers.broken
    assert min(used.values()) > 0.25 * sum(used.values())


def test_what_the_proxy_costs(serving: Serving, models: Path) -> None:
    port = free_port()
    environment = {**os.environ, "MODELS_DIR": str(models), "HOST": "127.0.0.1", "PORT": str(port)}
    bare = subprocess.Popen([sys.executable, "-m", "app"], cwd=ROOT, env=environment)
    try:
        wait_for_ready(port, bare)
        print(f"\n{'':34}bare server          two replicas behind Serve")
        for name, bodies in (("texts", text_bodies()), ("images 800x600", image_bodies())):
            for connections in (1, CONNECTIONS):
                cells = []
                for address in (port, serving[0]):
                    result = asyncio.run(load(address, bodies, connections, 5))
                    assert result.latencies and not result.failed
                    cells.append(f"{result.per_second:6.0f}/s p50 {result.percentile(0.5):5.1f} ms")
                print(f"{name:16} {connections:2} connections   {'   '.join(cells)}")
    finally:
        bare.terminate()
        bare.wait(20)


def test_a_replica_that_is_killed_takes_only_its_own_requests_along(serving: Serving) -> None:
    port = serving[0]

    async def kill_in_the_middle() -> Answers:
        asking = asyncio.create_task(ask_for(port, 8))
        await asyncio.sleep(3)
        os.kill(next(iter(replicas())), signal.SIGKILL)
        return await asking

    before = set(replicas())
    answers = asyncio.run(kill_in_the_middle())
    failed = sum(answers.statuses.values()) - answers.statuses[200] + len(answers.broken)
    print(f"\n{dict(answers.statuses)}, broken connections: {len(answers.broken)}")
    assert failed <= CONNECTIONS, "only what the killed replica was computing may fail"
    assert answers.statuses[200] > 100
    for waited in itertools.count():
        if len(replicas()) == 2 and set(replicas()) != before:
            break
        assert waited < 300, "no replica took the place of the one that was killed"
        time.sleep(0.1)


def test_a_replica_that_is_let_go_finishes_first(serving: Serving, models: Path) -> None:
    """Serve replaces both replicas by one of a new version, in the middle of a load."""
    import ray
    from ray import serve

    from app.settings import Settings
    from deploy.ray.serve_app import deployment

    ray.init(address="auto", log_to_driver=False)
    replacement = deployment(
        Settings(models_dir=models), min_replicas=1, max_replicas=1, cpus=0.5, gpus=0, ongoing=32
    )

    async def replace_in_the_middle() -> Answers:
        asking = asyncio.create_task(ask_for(serving[0], 25))
        await asyncio.sleep(2)
        await asyncio.to_thread(serve.run, replacement, name="multi2vec-clip", route_prefix="/")
        return await asking

    before = set(replicas())
    answers = asyncio.run(replace_in_the_middle())
    ray.shutdown()
    print(f"\n{dict(answers.statuses)}, broken connections: {len(answers.broken)}")
    assert set(answers.statuses) == {200} and not answers.broken
    for waited in itertools.count():
        if len(replicas()) == 1 and not set(replicas()) & before:
            break
        assert waited < 300, f"replicas {set(replicas())}, before {before}"
        time.sleep(0.1)


def test_it_stops_cleanly(serving: Serving) -> None:
    _, process = serving
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert not replicas()


def test_settings_that_do_not_go_together(models: Path) -> None:
    command = [sys.executable, str(ROOT / "deploy/ray/serve_app.py"), "--gpus", "1"]
    environment = {**os.environ, "MODELS_DIR": str(models)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1 and "ENABLE_CUDA=1 and --gpus belong together" in result.stderr
