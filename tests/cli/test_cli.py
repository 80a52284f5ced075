"""The command line, as a user types it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from app.settings import Settings
from tests.support.server import ROOT, free_port, wait_for_ready
from tests.support.vectors import png
from tests.support.warm_python import warm_python

DEMO = ROOT / "demo/models"


def run(*arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [warm_python(), "-m", "app", *map(str, arguments)]
    environment = {**os.environ, "MODELS_DIR": str(DEMO), "COLUMNS": "200", **env}
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "red.png", tmp_path / "blue.png"]
    for path in paths:
        Image.new("RGB", (64, 48), path.stem).save(path)
    return paths


@pytest.mark.parametrize("command", ["serve", "check", "embed", "compile", "bake"])
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = run(command, "--help")
    assert result.returncode == 0
    assert f"python -m app {command} --" in result.stdout or "download.py --clip-model" in result.stdout
    assert "--models-dir" in result.stdout and "--trust-remote-code" in result.stdout


def settings_shown(output: str) -> dict[str, str]:
    """The lines of `check` about settings, by name."""
    return dict(line.split("=", 1) for line in output.splitlines() if re.match("[A-Z_]+=", line))


def test_check_says_what_is_served_and_where_each_setting_comes_from() -> None:
    result = run("check", "--threads", "1", MAX_PIXELS="1000000", PORT="8080")
    assert result.returncode == 0, result.stderr
    assert "vectors of width 64" in result.stdout and "similarity" in result.stdout
    assert settings_shown(result.stdout) == {
        "MODELS_DIR": f"{DEMO} (environment)",
        "MAX_PIXELS": "1000000 (environment)",
        "THREADS": "1 (--threads)",
    }
    shown = settings_shown(run("check", "--all", "--threads", "1").stdout)
    assert (shown["THREADS"], shown["PORT"]) == ("1 (--threads)", "8080 (default)")
    assert len(shown) == len(Settings.model_fields)


def test_check_finds_a_model_folder_that_is_cut_in_half(tmp_path: Path) -> None:
    for name in ("clip", "text"):
        shutil.copytree(DEMO / name, tmp_path / name)
    weights = tmp_path / "text" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    result = run("check", "--models-dir", tmp_path)
    assert result.returncode == 1
    assert f"cannot load the model in {tmp_path / 'text'}" in result.stderr and "Traceback" not in result.stderr
    assert "copy or bake the model again" in result.stderr


def test_embed_gives_the_servers_vectors(serve: Callable[..., str], pictures: list[Path]) -> None:
    result = run("embed", "--json", "--text", "a red circle", "--text", "", "--image", *pictures)
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    payload = {"texts": ["a red circle", ""], "images": [png(Image.open(path)) for path in pictures]}
    want = httpx.post(f"{serve(DEMO)}/vectorize", json=payload).json()
    for key in ("textVectors", "imageVectors"):
        np.testing.assert_allclose(answer[key], want[key], rtol=1e-4, atol=1e-4)


def test_embed_prints_similarities(pictures: list[Path]) -> None:
    result = run("embed", "--text", "a red square", "--image", *pictures)
    assert result.returncode == 0, result.stderr
    assert "red.png" in result.stdout and "a red square" in result.stdout


def test_embed_names_the_item_at_fault(pictures: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_text("no picture")
    result = run("embed", "--image", pictures[0], broken)
    assert result.returncode == 1 and "images[1]" in result.stderr and "Traceback" not in result.stderr
    assert "nowhere.png cannot be read" in run("embed", "--image", "nowhere.png").stderr
    assert "nothing to embed" in run("embed").stderr


def test_compile_is_done_once(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    for name in ("clip", "text"):
        shutil.copytree(DEMO / name, tmp_path / "models" / name)
    first, second = (run("compile", "--models-dir", tmp_path / "models") for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr
    assert first.stdout == second.stdout and (Path(first.stdout.strip()) / "manifest.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("nonsense",), 2, "invalid choice"),
        (("check", "--port", "many"), 1, "PORT='many'"),
        (("serve", "--engine", "abacus"), 1, "abacus"),
        (("bake", "--clip-model", "x"), 1, "TEXT_MODEL_NAME is not set"),
    ],
)
def test_mistakes_are_named(arguments: tuple[str, ...], status: int, says: str) -> None:
    result = run(*arguments)
    assert result.returncode == status and says in result.stderr and "Traceback" not in result.stderr


def test_serve_takes_settings_as_options() -> None:
    port = free_port()
    command = [sys.executable, "-m", "app", "serve", "--port", str(port), "--models-dir", str(DEMO), "--enable-page"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    wait_for_ready(f"http://127.0.0.1:{port}", process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(25) == 0
