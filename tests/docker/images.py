"""The Dockerfiles, built and run for real: `make docker-test`.

Needs a Docker daemon on Linux that has or can get python:3.11-slim; takes minutes, so it is not part of
`make test`. Settings: DOCKER (the client), DOCKER_BUILD_FLAGS (further words for `docker build`), TORCH_INDEX
(passed on where it is set, empty too: then the base image's own package index must give a CPU build of torch, and
what needs torchvision is left out).
Builds and runs on the host's network, so that the build reaches a model hub on loopback.
"""

import contextlib
import json
import os
import random
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.support.contract import check_contract
from tests.support.hub import serve_hub
from tests.support.server import free_port

ROOT = Path(__file__).parents[2]
DOCKER = os.environ.get("DOCKER", "docker")
BASE = "python:3.11-slim"
MB = 1_000_000
TORCH_INDEX = os.environ.get("TORCH_INDEX")
WITH_TORCHVISION = TORCH_INDEX != ""


def docker(*arguments: str) -> str:
    result = subprocess.run([DOCKER, *arguments], capture_output=True, text=True)
    assert result.returncode == 0, f"docker {shlex.join(arguments)}: {result.stderr[-3000:]}"
    return result.stdout.strip()


def build(tag: str, context: Path, *options: str) -> subprocess.CompletedProcess[str]:
    flags = shlex.split(os.environ.get("DOCKER_BUILD_FLAGS", ""))
    if TORCH_INDEX is not None and not any("TORCH_INDEX=" in option for option in options):
        flags.append(f"--build-arg=TORCH_INDEX={TORCH_INDEX}")
    command = [DOCKER, "build", "--progress=plain", "--network=host", "-t", tag, *flags, *options, str(context)]
    environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def built(tag: str, context: Path, *options: str) -> str:
    result = build(tag, context, *options)
    assert result.returncode == 0, result.stdout[-5000:]
    return tag


def size(image: str) -> int:
    return int(docker("image", "inspect", "-f", "{{.Size}}", image))


def print_layers(image: str) -> None:
    print(f"\n{image}: {(size(image) - size(BASE)) / MB:.0f} MB above {BASE}")
    for line in docker(
        "history", "--no-trunc", "--human=false", "--format", "{{.Size}}\t{{.CreatedBy}}", image
    ).splitlines():
        layer, _, command = line.partition("\t")
        if int(layer) >= MB // 10:
            print(f"  {int(layer) / MB:7.1f} MB  {command[:90]}")


class Container:
    """A running container; unless `restricted` is False read-only, as a user that no image knows."""

    def __init__(self, image: str, *options: str, address: str = "127.0.0.1", restricted: bool = True) -> None:
        port, user = free_port(), f"{random.randint(20_000, 60_000)}:{random.randint(20_000, 60_000)}"
        self.url = f"http://{f'[{address}]' if ':' in address else address}:{port}"
        started = time.monotonic()
        hard = ("--read-only", "--tmpfs", "/tmp", "--user", user, "--cap-drop", "ALL") if restricted else ()
        self.id = docker("run", "-d", "--network=host", "-e", f"PORT={port}", *hard, *options, image)
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/.well-known/ready").status_code == 204:
                    break
            assert self.state("Running") == "true", docker("logs", self.id)
            assert time.monotonic() < started + 90, "not ready within 90 s"
            time.sleep(0.02)
        self.seconds_to_ready = time.monotonic() - started

    def state(self, field: str) -> str:
        return docker("inspect", "-f", f"{{{{.State.{field}}}}}", self.id)

    def compiles(self) -> bool:
        """Whether it compiled the model at its start."""
        result = subprocess.run([DOCKER, "logs", self.id], capture_output=True, text=True)
        return "compiling the model" in result.stdout + result.stderr

    def find(self, *patterns: str) -> list[str]:
        """Files of the image whose name is like one of the patterns."""
        tests = " -o ".join(f"-iname '{pattern}'" for pattern in patterns)
        places = "/opt /usr /app /lib"
        return docker("exec", self.id, "sh", "-c", f"find {places} \\( {tests} \\) 2>/dev/null || true").splitlines()


@contextlib.contextmanager
def running(image: str, *options: str, address: str = "127.0.0.1", restricted: bool = True) -> Iterator[Container]:
    container = Container(image, *options, address=address, restricted=restricted)
    try:
        yield container
    finally:
        docker("rm", "-f", container.id)


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    models = ROOT / "demo" / "models"
    with serve_hub({"demo/clip": models / "clip", "demo/text": models / "text"}) as server:
        yield server.url


@pytest.fixture(scope="module")
def baked(hub: str) -> str:
    names = {"CLIP_MODEL_NAME": "demo/clip", "TEXT_MODEL_NAME": "demo/text", "HF_ENDPOINT": hub}
    options = [word for name, value in names.items() for word in ("--build-arg", f"{name}={value}")]
    return built("multi2vec-clip:demo", ROOT, *options)


@pytest.fixture(scope="module")
def custom() -> str:
    families = [] if WITH_TORCHVISION else ["--build-arg=FAMILIES="]
    return built("multi2vec-clip:custom", ROOT, "-f", str(ROOT / "custom.Dockerfile"), *families)


def test_a_baked_image(baked: str) -> None:
    print_layers(baked)
    with running(baked) as container:
        print(f"  ready {container.seconds_to_ready:.2f} s after docker run")
        check_contract(container.url)
        assert (
            container.find(
                "torch-*.dist-info",
                "libtorch*",
                "*nvidia*",
                "libcu*",
                "model.safetensors",
                "pytorch_model.bin",
                "openvino_telemetry",
            )
            == []
        )
        model = docker("exec", container.id, "sh", "-c", "du -sb /app/models | cut -f1")
        assert not container.compiles()
        assert size(baked) - size(BASE) - int(model) < 350 * MB


def test_stop_in_the_middle_of_load_loses_nothing(baked: str) -> None:
    statuses: list[int] = []
    lost: list[str] = []
    stopping = threading.Event()
    with running(baked) as container:

        def load(client: int) -> None:
            texts = [f"client {client} text {i} " + "word " * (i % 40) for i in range(300)]
            with httpx.Client(timeout=60) as http:
                while not stopping.is_set():
                    try:
                        statuses.append(http.post(f"{container.url}/vectorize", json={"texts": texts}).status_code)
                    except httpx.ConnectError:
                        return  # not accepted
                    except httpx.TransportError as error:
                        lost.append(repr(error))

        threads = [threading.Thread(target=load, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(2)
        threading.Timer(0.2, stopping.set).start()  # some go on asking while it stops
        began = time.monotonic()
        docker("stop", container.id)
        seconds = time.monotonic() - began
        for thread in threads:
            thread.join(60)
        print(f"\nstopped in {seconds:.2f} s; answers: {statuses.count(200)} x 200, {statuses.count(503)} x 503")
        assert container.state("ExitCode") == "0", docker("logs", container.id)
    assert not lost
    assert statuses.count(200) >= 8 and set(statuses) <= {200, 503}
    assert seconds < 10


@pytest.mark.parametrize("host", ["", "0.0.0.0", "127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_the_health_check(baked: str, host: str) -> None:
    address = host if host.startswith(("127.", "::1")) else "127.0.0.1"
    with running(baked, "-e", f"HOST={host}", address=address) as container:
        deadline = time.monotonic() + 20
        while container.state("Health.Status") != "healthy":
            assert time.monotonic() < deadline, docker("inspect", container.id)
            time.sleep(0.5)
        probe = docker("inspect", "-f", '{{join .Config.Healthcheck.Test "\\n"}}', container.id).split("\n")[1:]
        wrong = subprocess.run([DOCKER, "exec", "-e", "PORT=1", container.id, *probe], capture_output=True, text=True)
        assert wrong.returncode == 1 and "port 1: " in wrong.stdout


@pytest.mark.parametrize(
    "security",
    [
        (),
        ("--user", "0:0"),
        ("--user", "1002700000:0", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    ],
    ids=["as the image says", "root", "as OpenShift does"],
)
def test_a_pod_of_weaviates_helm_chart(baked: str, security: tuple[str, ...]) -> None:
    """It gets this variable alone, a pod's security context, and Kubernetes' 30 s to stop."""
    with running(baked, "-e", "ENABLE_CUDA=0", *security, restricted=False) as container:
        check_contract(container.url)
        docker("stop", "-t", "30", container.id)
        assert container.state("ExitCode") == "0"


def test_a_baked_image_with_another_model_beside_it_is_refused(baked: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "demo" / "models" / "text", tmp_path / "text")
    (tmp_path / "Dockerfile").write_text(f"FROM {baked}\nCOPY text /app/models/text\n")
    image = built("multi2vec-clip:mixed", tmp_path)
    result = subprocess.run([DOCKER, "run", "--rm", "--network=host", image], capture_output=True, text=True)
    assert result.returncode == 1 and "there is no model folder models/clip" in result.stderr


def test_a_model_whose_pictures_only_its_own_library_prepares_gets_torch(tmp_path: Path) -> None:
    models = ROOT / "demo" / "models"
    shutil.copytree(models / "clip", tmp_path / "clip")
    config = tmp_path / "clip" / "processor_config.json"
    document = json.loads(config.read_text())
    document["image_processor"]["size"]["shortest_edge"] -= 8  # smaller than the crop: padded
    config.write_text(json.dumps(document))
    names = {"CLIP_MODEL_NAME": "demo/clip", "TEXT_MODEL_NAME": "demo/text"}
    with serve_hub({"demo/clip": tmp_path / "clip", "demo/text": models / "text"}) as server:
        options = [f"--build-arg={name}={value}" for name, value in {**names, "HF_ENDPOINT": server.url}.items()]
        result = build("multi2vec-clip:torch", ROOT, *options)
    assert result.returncode == 0, result.stdout[-5000:]
    assert "the image gets torch and the model's own files" in result.stdout
    with running("multi2vec-clip:torch") as container:
        check_contract(container.url)
        assert container.find("torch-*.dist-info") and not container.find("*nvidia*", "libcud*", "libcublas*")


def test_no_model_named() -> None:
    result = build("multi2vec-clip:none", ROOT)
    assert result.returncode != 0 and "set CLIP_MODEL_NAME and TEXT_MODEL_NAME" in result.stdout


def test_a_family_that_is_not_there() -> None:
    result = build("multi2vec-clip:none", ROOT, "--build-arg", "FAMILIES=nonesuch")
    assert result.returncode != 0 and "there is no requirements/nonesuch.txt" in result.stdout


def test_torch_alone_comes_from_torch_index() -> None:
    """An index that is asked for every package could answer for any name."""
    asked: list[str] = []

    class Index(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        threading.Thread(target=server.serve_forever).start()
        index = f"--build-arg=TORCH_INDEX=http://127.0.0.1:{server.server_port}"
        result = build(
            "multi2vec-clip:none", ROOT, "-f", str(ROOT / "custom.Dockerfile"), index, "--build-arg=FAMILIES="
        )
        server.shutdown()
    assert set(asked) == {"/torch/"}
    # A base image whose own pip settings give a CPU build goes on with that.
    assert result.returncode == 0 or f"torch is not to be had from {index.split('=', 1)[1]}" in result.stdout


@pytest.mark.skipif(not WITH_TORCHVISION, reason="TORCH_INDEX= is set, so no torchvision is at hand that fits torch")
def test_the_custom_image_holds_what_each_family_needs(custom: str) -> None:
    docker("run", "--rm", custom, "python", "-c", "import open_clip, colpali_engine, torchvision")


def test_the_old_names_of_the_requirement_files_work_in_the_custom_image(custom: str) -> None:
    """On top of the image they find everything pinned, and bring nothing back that was left out on purpose."""
    for family in ("openclip", "colpali"):
        command = ("pip", "install", "--dry-run", "-r", f"requirements-{family}.txt")
        said = docker("run", "--rm", "--network=host", custom, *command)
        assert not WITH_TORCHVISION or "Would install" not in said
        assert "openvino-telemetry" not in said.partition("Would install")[2]


def test_two_lines_that_copy_a_model(custom: str, tmp_path: Path) -> None:
    print_layers(custom)
    assert size(custom) - size(BASE) < 1900 * MB
    for name in ("text", "clip"):
        shutil.copytree(ROOT / "demo" / "models" / name, tmp_path / f"my-{name}-model")
    lines = f"FROM {custom}\nCOPY ./my-text-model /app/models/text\nCOPY ./my-clip-model /app/models/clip\n"
    (tmp_path / "Dockerfile").write_text(lines)
    with running(built("multi2vec-clip:copied", tmp_path)) as container:
        print(f"  ready {container.seconds_to_ready:.2f} s after docker run, compiling included")
        assert container.compiles()
        check_contract(container.url)
        assert container.find("*nvidia*", "libcud*", "libcublas*") == []
    compiled = "RUN python -m app compile\n"  # the third line of docs/operations.md
    (tmp_path / "Dockerfile").write_text(lines + compiled)
    with running(built("multi2vec-clip:copied", tmp_path)) as container:
        print(f"  ready {container.seconds_to_ready:.2f} s after docker run, compiled in the build")
        assert not container.compiles()


def test_your_own_model_without_torch(custom: str, tmp_path: Path) -> None:
    """The two stages of docs/operations.md."""
    server = built("multi2vec-clip:server", ROOT, "--target", "server")
    for name in ("text", "clip"):
        shutil.copytree(ROOT / "demo" / "models" / name, tmp_path / f"my-{name}-model")
    (tmp_path / "Dockerfile").write_text(
        f"FROM {custom} AS bake\n"
        "COPY --chmod=755 ./my-text-model /app/models/text\n"
        "COPY --chmod=755 ./my-clip-model /app/models/clip\n"
        "RUN python -m app compile\n"
        f"FROM {server}\n"
        "COPY --from=bake /app/models/compiled /app/models/compiled\n"
    )
    with running(built("multi2vec-clip:own", tmp_path)) as container:
        check_contract(container.url)
        assert container.find("torch-*.dist-info", "libtorch*", "model.safetensors") == []


def test_a_copied_model_that_only_its_owner_may_read(custom: str, tmp_path: Path) -> None:
    for name in ("text", "clip"):
        shutil.copytree(ROOT / "demo" / "models" / name, tmp_path / name)
    (tmp_path / "clip" / "model.safetensors").chmod(0o600)  # as safetensors saves it
    (tmp_path / "Dockerfile").write_text(f"FROM {custom}\nCOPY . /app/models/\n")
    image = built("multi2vec-clip:unreadable", tmp_path)
    result = subprocess.run([DOCKER, "run", "--rm", "--network=host", image], capture_output=True, text=True)
    assert result.returncode == 1 and "may not read models/clip/model.safetensors" in result.stderr
    assert "COPY --chmod=755" in result.stderr
    (tmp_path / "Dockerfile").write_text(f"FROM {custom}\nCOPY --chmod=755 . /app/models/\n")
    with running(built("multi2vec-clip:copied", tmp_path)):
        pass


def test_two_lines_that_bake_a_model(custom: str, hub: str, tmp_path: Path) -> None:
    names = f"HF_ENDPOINT={hub} CLIP_MODEL_NAME=demo/clip TEXT_MODEL_NAME=demo/text"
    (tmp_path / "Dockerfile").write_text(f"FROM {custom}\nRUN {names} ./download.py\n")
    with running(built("multi2vec-clip:two-lines", tmp_path)) as container:
        print(f"\n{names} ./download.py: ready {container.seconds_to_ready:.2f} s after docker run")
        check_contract(container.url)
        assert not container.compiles()


def test_custom_writes_what_it_compiles_where_the_image_lets_it(custom: str, tmp_path: Path) -> None:
    for name in ("text", "clip"):
        shutil.copytree(ROOT / "demo" / "models" / name, tmp_path / name)
    (tmp_path / "Dockerfile").write_text(f"FROM {custom}\nCOPY . /app/models\n")
    image = built("multi2vec-clip:copied", tmp_path)
    name = docker("run", "-d", "--network=host", "-e", f"PORT={free_port()}", image)
    try:
        deadline = time.monotonic() + 90
        while "ready:" not in subprocess.run([DOCKER, "logs", name], capture_output=True, text=True).stderr:
            alive = docker("inspect", "-f", "{{.State.Running}}", name) == "true"
            assert alive and time.monotonic() < deadline, docker("logs", name)
            time.sleep(0.2)
        assert docker("exec", name, "sh", "-c", "ls /app/models/compiled/*/manifest.json")
        assert docker("exec", name, "id", "-u") == "10001"
    finally:
        docker("rm", "-f", name)
