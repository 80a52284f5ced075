"""What is wrong at start is said in one line, and the exit code is not 0."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import free_port, start_server
from tests.tiny import clip_pair


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


def test_no_models(tmp_path: Path) -> None:
    log = refusal(tmp_path / "nothing")
    assert str(tmp_path / "nothing" / "clip") in log and "MODELS_DIR" in log


def test_truncated_weights(copy: Path) -> None:
    weights = copy / "text" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert f"{weights} is cut off" in refusal(copy)


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
