"""`make demo` serves the compiled form in the repository, with what serving needs and nothing more."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer

from app.families.registry import find_family
from app.models.compile import form_of
from app.models.store import read_manifest
from app.settings import Settings
from tests.support.contract import check_contract
from tests.support.server import ROOT, process_of
from tests.support.vectors import TEXTS, ask, assert_same, pictures

DEMO = ROOT / "demo" / "models"


def in_the_repository(folder: Path) -> list[str]:
    """Names of the files in `folder` that are in the repository, not just on this disk."""
    if not (ROOT / ".git").exists():
        return sorted(path.name for path in folder.glob("*"))
    command = ["git", "-c", "safe.directory=*", "ls-files", str(folder)]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted(Path(line).name for line in listed.splitlines())


def test_the_compiled_form_in_the_repository_is_the_one_of_the_pinned_openvino() -> None:
    form = form_of(Settings(models_dir=DEMO, precision="float32"), find_family(DEMO))
    folder = DEMO / "compiled" / form.name
    assert "manifest.json" in in_the_repository(folder), "run `make demo-compiled` and commit demo/models/compiled"
    assert in_the_repository(DEMO / "compiled") == in_the_repository(folder), "of several only one is served"
    assert not any("refused" in tower for tower in read_manifest(folder)["towers"].values())


@pytest.fixture(scope="module")
def without_torch(serve: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A server of the demo in which nothing can be imported that only requirements.txt brings."""
    folder = tmp_path_factory.mktemp("without-torch")
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "for name in ('torch', 'transformers', 'sentence_transformers', 'scipy', 'sklearn', 'sentencepiece'):\n"
        "    sys.modules[name] = None\n"
    )
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return serve(DEMO, measured=True, PYTHONPATH=path, CACHE_DIR=str(folder))


def test_the_demo_is_served_without_torch(without_torch: str) -> None:
    check_contract(without_torch)
    maps = Path(f"/proc/{process_of(without_torch).pid}/maps")
    assert not maps.exists() or "libtorch" not in maps.read_text()


def test_its_vectors_equal_those_of_torch(without_torch: str) -> None:
    got = ask(without_torch)
    image = SentenceTransformer(str(DEMO / "clip"), device="cpu")
    text = SentenceTransformer(str(DEMO / "text"), device="cpu")
    assert_same(got["imageVectors"], image.encode(pictures(), batch_size=1))
    assert_same(got["textVectors"], text.encode(TEXTS, batch_size=1))
