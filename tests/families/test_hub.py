"""What is downloaded from the hub, and what is said when it cannot be."""

import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from app.families.hub import wanted_files
from tests.support.hub import Hub, hub_environment, serve_hub
from tests.support.server import ROOT

DOWNLOAD = """
import sys
from pathlib import Path
from app.errors import ConfigurationError
from app.families.hub import download
try:
    print("FOLDER", download(sys.argv[1], Path(sys.argv[2]), sys.argv[3:] or None))
except ConfigurationError as error:
    sys.exit(f"error: {error}")
"""


def download(url: str, downloads: Path, name: str, *only: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", DOWNLOAD, name, str(downloads), *only]
    environment = hub_environment(url, downloads / "home", **env)
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)


def folder_of(result: subprocess.CompletedProcess[str]) -> Path:
    assert result.returncode == 0, result.stderr
    return Path(result.stdout.split("FOLDER ")[1].strip())


def repository(folder: Path, **files: str) -> Path:
    for name, content in {"config.json": "{}", **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    weights = {"model.safetensors": "s", "pytorch_model.bin": "b", "tf_model.h5": "h", "onnx/model.onnx": "o"}
    return repository(tmp_path / "one", **weights, **{"2_Dense/pytorch_model.bin": "d"})


def test_each_weight_is_wanted_once() -> None:
    files = ["a.json", "model.safetensors", "pytorch_model.bin", "2_Dense/pytorch_model.bin", "flax.msgpack"]
    assert wanted_files(files) == ["a.json", "model.safetensors", "2_Dense/pytorch_model.bin"]
    assert wanted_files(files, ["pytorch_model.bin", "*.json"]) == ["a.json", "pytorch_model.bin"]


def test_only_what_is_needed_is_downloaded_and_only_once(model: Path, tmp_path: Path) -> None:
    with serve_hub({"someone/model": model}) as hub:
        folder = folder_of(download(hub.url, tmp_path / "d", "someone/model"))
        got = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and ".cache" not in p.parts)
        assert got == ["2_Dense/pytorch_model.bin", "config.json", "model.safetensors"]
        assert len(hub.downloads) == 3
        assert folder_of(download(hub.url, tmp_path / "d", "someone/model@main")) == folder
        assert len(hub.downloads) == 3


def test_each_revision_has_its_own_folder(model: Path, tmp_path: Path) -> None:
    with serve_hub({"someone/model": model}) as hub:
        first = folder_of(download(hub.url, tmp_path / "d", "someone/model"))
        hub.models["someone/model"] = repository(tmp_path / "two", **{"pytorch_model.bin": "new"})
        second = folder_of(download(hub.url, tmp_path / "d", "someone/model"))
    assert first != second
    assert not (second / "model.safetensors").exists() and (second / "pytorch_model.bin").read_text() == "new"


def test_a_local_folder_is_used_as_it_is(model: Path, tmp_path: Path) -> None:
    assert folder_of(download("http://127.0.0.1:9", tmp_path / "d", str(model))) == model
    result = download("http://127.0.0.1:9", tmp_path / "d", "/nowhere/model")
    assert "there is no folder /nowhere/model" in result.stderr


def fill_cache(hub: Hub, home: Path) -> None:
    code = "from huggingface_hub import snapshot_download; snapshot_download('someone/model')"
    env = hub_environment(hub.url, home)
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_filled_cache_is_used_offline(model: Path, tmp_path: Path) -> None:
    with serve_hub({"someone/model": model}) as hub:
        fill_cache(hub, tmp_path / "d" / "home")
    offline = {"HF_HUB_OFFLINE": "1"}
    folder = folder_of(download("http://127.0.0.1:9", tmp_path / "d", "someone/model", **offline))
    assert (folder / "model.safetensors").is_file()
    result = download("http://127.0.0.1:9", tmp_path / "d", "someone/other", **offline)
    assert "HF_HUB_OFFLINE" in result.stderr and "does not hold someone/other" in result.stderr


def test_a_socks_proxy_without_its_package(tmp_path: Path) -> None:
    proxy = {name: "socks5://127.0.0.1:9" for name in ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")}
    result = download("http://example.invalid", tmp_path, "someone/model", NO_PROXY="", no_proxy="", **proxy)
    assert "the 'socksio' package is not installed" in result.stderr and "Traceback" not in result.stderr


def test_a_certificate_of_ones_own(model: Path, tmp_path: Path) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*command, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with serve_hub({"someone/model": model}, context) as hub:
        result = download(hub.url, tmp_path / "d", "someone/model")
        assert "SSL_CERT_FILE" in result.stderr and "Traceback" not in result.stderr
        assert (folder_of(download(hub.url, tmp_path / "d", "someone/model", SSL_CERT_FILE=str(cert)))).is_dir()


def test_a_hub_that_is_asked_too_often_is_given_the_time_it_asks_for(model: Path, tmp_path: Path) -> None:
    with serve_hub({"someone/model": model}) as hub:
        hub.failure, hub.failures, hub.retry_after = 429, 2, "2"
        started = time.monotonic()
        assert folder_of(download(hub.url, tmp_path / "d", "someone/model")).is_dir()
        assert time.monotonic() - started > 2
        hub.failures, hub.retry_after = 1000, "3600"
        result = download(hub.url, tmp_path / "again", "someone/model")
    assert result.returncode == 1 and "3600 s" in result.stderr and "HF_TOKEN" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_mirror_and_a_page_to_log_in_are_named(model: Path, tmp_path: Path) -> None:
    with serve_hub({"someone/model": model}) as hub:
        hub.names_commit = False
        mirror = download(hub.url, tmp_path / "d", "someone/model")
        hub.portal = True
        portal = download(hub.url, tmp_path / "d", "someone/model")
    for result, says in ((mirror, "X-Repo-Commit"), (portal, "log in")):
        assert result.returncode == 1 and says in result.stderr and "Traceback" not in result.stderr
        assert hub.url in result.stderr.splitlines()[-1]


ADAPTER = {"adapter_model.safetensors": "a", "adapter_config.json": '{"base_model_name_or_path": "someone/base"}'}
QUANTISED = {"model.safetensors": "s", "config.json": '{"quantization_config": {"quant_method": "gptq", "bits": 4}}'}


@pytest.mark.parametrize(
    "files, says",
    [
        (ADAPTER, "LoRA adapter of someone/base"),
        ({"onnx/model.onnx": "o", "model_q4.gguf": "g"}, "as GGUF, ONNX only"),
        ({"tf_model.h5": "h"}, "TensorFlow's only"),
        (QUANTISED, r"is quantised (gptq)"),
        ({"config.json": '{"quantization_config": {"quant_method": "fp8"}}', "m.safetensors": ""}, "quantised (fp8)"),
        ({}, "holds no weights"),
    ],
)
def test_weights_that_are_not_read_say_what_to_take_instead(tmp_path: Path, files: dict[str, str], says: str) -> None:
    made = repository(tmp_path / "made", **files)
    with serve_hub({"someone/made": made}) as hub:
        of_the_hub = download(hub.url, tmp_path / "d", "someone/made")
    of_a_folder = download("http://127.0.0.1:9", tmp_path / "d", str(made))
    for result in (of_the_hub, of_a_folder):
        error = result.stderr.splitlines()[-1]
        assert result.returncode == 1 and says in error and "take" in error and "download.py" not in error


Timed = tuple[subprocess.CompletedProcess[str], float]


@pytest.fixture(scope="module", autouse=True)
def without_xet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Future[Timed]]]:
    """Downloads and their seconds where the storage of Xet refuses, is silent, and where the ordinary way fails too.

    The other tests go on meanwhile, for nearly all of it is waiting.
    """
    folder = tmp_path_factory.mktemp("without-xet")
    model = repository(folder / "one", **{"model.safetensors": "s"})

    def take(xet: str, failures: int = 0, **env: str) -> Timed:
        with serve_hub({"someone/model": model}) as hub:
            hub.xet, hub.failures = f"http://{xet}", failures
            started = time.monotonic()
            place = Path(tempfile.mkdtemp(dir=folder))
            result = download(hub.url, place, "someone/model", HF_HUB_DISABLE_XET="0", **env)
            return result, time.monotonic() - started

    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(3) as pool:
        nobody, address = "127.0.0.1:9", f"127.0.0.1:{silent.getsockname()[1]}"
        failing = pool.submit(take, nobody, 1000, HF_HUB_ETAG_TIMEOUT="1")
        yield [pool.submit(take, nobody), pool.submit(take, address), failing]


def test_without_the_storage_of_xet_the_ordinary_way_is_taken(without_xet: list[Future[Timed]]) -> None:
    *others, failing = (each.result() for each in without_xet)
    for result, seconds in others:
        assert (folder_of(result) / "model.safetensors").read_text() == "s"
        assert "in the ordinary way" in result.stdout and "Traceback" not in result.stderr
        assert seconds < 100
    result, _ = failing
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("error:")]) == 1
