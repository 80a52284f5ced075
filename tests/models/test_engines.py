"""An engine is one file and one line: one that lives here compiles and serves a model."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from app.engines import ENGINES
from app.errors import ConfigurationError, NotCompiled
from app.main import create_app
from app.models.compile import compile_model
from app.models.load import load_model
from app.models.store import read_manifest
from app.settings import Settings
from app.towers import InferenceSession, Inputs, Vectors
from tests.support.compiled import assert_like_reference
from tests.support.server import RunningApp


class Pickled:
    """Keeps a module as torch pickles it, and computes with that."""

    name = "toy"
    title = "the toy"
    devices: tuple[str, ...] = ("cpu",)
    refuses: tuple[str, ...] = ()

    def missing(self) -> str | None:
        return None

    def device(self, settings: Settings) -> str:
        return "a table"

    def precisions(self, settings: Settings) -> list[str]:
        return ["float32"]

    def version(self) -> str:
        return "1"

    def export(
        self, module: torch.nn.Module, sample: Inputs, path: Path, *, any_length: bool, precision: str
    ) -> None:
        if path.name in self.refuses:
            raise NotCompiled("it is too good for it")
        torch.save(module, path.with_suffix(".pickle"))

    def open_file(self, path: Path, precision: str, settings: Settings) -> InferenceSession:
        return Session(torch.load(path.with_suffix(".pickle"), weights_only=False))


class NoTexts(Pickled):
    """The same, which takes no text towers."""

    name = "toy-no-texts"
    title = "the picky toy"
    refuses = ("text",)


class Session:
    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module

    def start(self, batch: Inputs) -> Callable[[], Vectors]:
        with torch.inference_mode():
            vectors = self._module(**{name: torch.from_numpy(array) for name, array in batch.items()}).numpy()
        return lambda: np.asarray(vectors, np.float32)


TOYS = [Pickled(), NoTexts()]
if __name__ != "__main__":
    ENGINES.extend(TOYS)


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    yield
    for toy in TOYS:
        ENGINES.remove(toy)


@pytest.fixture
def settings(tiny_models: Path, tmp_path: Path) -> Settings:
    return Settings(models_dir=tiny_models, cache_dir=tmp_path, engine="toy")


def test_a_toy_engine_compiles_and_serves(settings: Settings, tiny_models: Path, tmp_path: Path) -> None:
    folder = compile_model(settings, tmp_path / "compiled")
    assert (folder / "image.pickle").is_file() and not list(folder.glob("*.xml"))
    model = load_model(settings)
    with RunningApp(create_app(settings, lambda _: model)) as running:
        assert_like_reference(running.url, tiny_models)
    assert model.engine == "the toy on a table, in float32"


def test_a_tower_that_one_engine_refuses_is_computed_by_the_next(
    settings: Settings,
    tiny_models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    place = tmp_path / "compiled"
    picky = settings.model_copy(update={"engine": "toy-no-texts"})
    towers = read_manifest(compile_model(picky, place))["towers"]
    assert "too good" in towers["text"]["refused"] and "refused" not in towers["image"]
    with pytest.raises(ConfigurationError, match=r"ENGINE=toy-no-texts: .*text tower: it is too good"):
        load_model(picky)
    monkeypatch.setattr("app.models.engine.ENGINES", [TOYS[1], *ENGINES])
    model = load_model(settings.model_copy(update={"engine": "auto"}))
    with RunningApp(create_app(settings, lambda _: model)) as running:
        assert_like_reference(running.url, tiny_models)
    assert model.engine == "the picky toy on a table, the text tower by torch, in float32"
    assert any("text tower: it is too good" in record.message for record in caplog.records)


def test_an_engine_that_is_not_there_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"ENGINE='abacus': .*auto, openvino, torch"):
        load_model(settings.model_copy(update={"engine": "abacus"}))
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigurationError, match=r"ENGINE=openvino: .*pip install openvino"):
        load_model(settings.model_copy(update={"engine": "openvino"}))


def test_a_precision_that_the_engine_lacks_is_named(settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match=r"PRECISION=int8: the toy on a table takes float32"):
        load_model(settings.model_copy(update={"precision": "int8"}))
