"""Compiling a model folder, and what a server of it must give."""

import os
import subprocess
from pathlib import Path

from sentence_transformers import SentenceTransformer

from tests.support.server import ROOT
from tests.support.vectors import TEXTS, ask, assert_same, pictures
from tests.support.warm_python import warm_python


def without(tmp_path: Path, *modules: str) -> str:
    """A PYTHONPATH under which these modules cannot be imported."""
    folder = tmp_path / "hidden"
    folder.mkdir(exist_ok=True)
    lines = "".join(f"sys.modules[{name!r}] = None\n" for name in modules)
    (folder / "sitecustomize.py").write_text(f"import sys\n{lines}")
    return f"{folder}{os.pathsep}{ROOT}"


def compiled(place: Path) -> list[Path]:
    return sorted(path.parent for path in place.glob("*/manifest.json"))


def compile_now(models: Path, place: Path) -> None:
    command = [warm_python(), "-m", "app", "compile", "--output", str(place)]
    subprocess.run(command, env={**os.environ, "MODELS_DIR": str(models)}, check=True, capture_output=True, cwd=ROOT)


def assert_like_reference(url: str, models: Path) -> None:
    got = ask(url)
    image = SentenceTransformer(str(models / "clip"), device="cpu")
    text = SentenceTransformer(str(models / "text"), device="cpu")
    assert_same(got["imageVectors"], image.encode(pictures(), batch_size=1))
    assert_same(got["textVectors"], text.encode(TEXTS, batch_size=1))
