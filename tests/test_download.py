"""download.py against a small hub on loopback, through the real hub client."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.baking import download
from tests.support.compiled import assert_like_reference
from tests.support.hub import Hub, serve_hub
from tests.support.server import free_port
from tests.support.tiny import as_saved_by_old_versions, clip_pair, text_pipeline

Serve = Callable[..., str]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("originals")
    clip = clip_pair(root / "pair", seed=11) / "clip"
    return {
        "sentence-transformers/clip-tiny": as_saved_by_old_versions(clip, root / "old", "0_CLIPModel"),
        "someone/text-tiny": text_pipeline(root / "text"),
        "someone/narrow": text_pipeline(root / "narrow", width=8),
    }


@pytest.fixture
def hub(originals: dict[str, Path]) -> Iterator[Hub]:
    with serve_hub(dict(originals)) as running:
        yield running


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Time and size of every file."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


def test_baked_by_environment_served_and_repeated(hub: Hub, tmp_path: Path, serve: Serve) -> None:
    models = tmp_path / "models"
    names = {"CLIP_MODEL_NAME": "clip-tiny", "TEXT_MODEL_NAME": "someone/text-tiny@main"}
    result = download(hub.url, models, **names)
    assert result.returncode == 0, result.stderr
    assert not (models / ".downloading").exists()
    assert len(list(models.glob("compiled/*/manifest.json"))) == 1
    assert sum(path.suffix == ".safetensors" for path in models.rglob("*")) == 3  # clip, text, its dense layer
    before, downloads = state(models), len(hub.downloads)
    assert download(hub.url, models, **names).returncode == 0
    assert state(models) == before and len(hub.downloads) == downloads
    assert_like_reference(serve(models, HF_ENDPOINT="http://127.0.0.1:9"), models)


def test_interrupted_and_completed(hub: Hub, originals: dict[str, Path], tmp_path: Path) -> None:
    models = tmp_path / "models"
    arguments = ("--clip-model", "clip-tiny", "--text-model", "clip-tiny", "--no-compile")
    hub.models["sentence-transformers/clip-tiny"] = damaged = tmp_path / "damaged"
    shutil.copytree(originals["sentence-transformers/clip-tiny"], damaged)
    weights = damaged / "0_CLIPModel" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    result = download(hub.url, models, *arguments)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert not (models / "clip").exists() and not (models / "baked.json").exists()
    hub.models.update(originals)  # mended by another commit
    result = download(hub.url, models, *arguments)
    assert result.returncode == 0, result.stderr
    assert (models / "clip").is_dir() and (models / "text").is_dir() and not (models / ".downloading").exists()


def test_a_hub_that_stumbles_is_tried_again(hub: Hub, tmp_path: Path) -> None:
    hub.failures = 2
    hub.stop_after = 2000
    models = tmp_path / "models"
    arguments = ("--clip-model", "clip-tiny", "--text-model", "clip-tiny", "--no-compile")
    result = download(hub.url, models, *arguments)
    if result.returncode:
        assert "Traceback" not in result.stderr
        result = download(hub.url, models, *arguments)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "arguments, says",
    [
        ((), "CLIP_MODEL_NAME"),
        (("--clip-model", "nobody/nothing", "--text-model", "clip-tiny"), "no model nobody/nothing"),
        (("--clip-model", "clip-tiny@v9", "--text-model", "clip-tiny"), "no revision v9"),
        (("--clip-model", "someone/text-tiny", "--text-model", "clip-tiny"), "does not take pictures"),
        (("--clip-model", "clip-tiny", "--text-model", "someone/narrow"), "width"),
    ],
)
def test_errors_say_the_way_out_in_one_line(hub: Hub, tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    result = download(hub.url, tmp_path / "models", *arguments)
    assert result.returncode == 1
    assert says in result.stderr and "Traceback" not in result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("error:")]) == 1


def test_private_and_gated_models(hub: Hub, tmp_path: Path) -> None:
    arguments = ("--clip-model", "clip-tiny", "--text-model", "clip-tiny", "--no-compile")
    hub.private = {"sentence-transformers/clip-tiny"}
    assert "HF_TOKEN" in download(hub.url, tmp_path / "models", *arguments).stderr
    hub.private, hub.gated = set(), {"sentence-transformers/clip-tiny"}
    assert "gated" in download(hub.url, tmp_path / "models", *arguments).stderr
    assert download(hub.url, tmp_path / "models", *arguments, HF_TOKEN="secret").returncode == 0


def test_no_network(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    result = download(url, tmp_path / "models", "--clip-model", "a/b", "--text-model", "a/b")
    assert result.returncode == 1
    assert "does not answer" in result.stderr and "Traceback" not in result.stderr
