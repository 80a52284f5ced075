"""A model in every precision that an engine offers, loaded as the server does, in this process."""

import functools
from pathlib import Path
from typing import Any
from unittest import mock
from weakref import WeakKeyDictionary

import numpy as np
import pytest

from app.engines import ENGINES, OPENVINO, TORCH, openvino
from app.errors import ConfigurationError
from app.families.registry import find_family
from app.models.compile import form_of, write_form
from app.models.load import load_model
from app.models.store import is_whole
from app.processors.padding import collate
from app.settings import Settings
from app.towers import Inputs, LoadedModel, TorchModel, TorchTower, Vectors
from tests.support.vectors import TEXTS, embed, pictures

PRECISIONS = ("float32", "bfloat16", "float16", "int8")
# To the vectors of float32.
MIN_COSINE = {"float32": 0.99999, "bfloat16": 0.999, "float16": 0.9999, "int8": 0.999}


def load_in(models: Path, engine_name: str, precision: str) -> LoadedModel:
    """What has to be compiled is compiled here, which saves a process for each."""
    settings = Settings(models_dir=models, engine=engine_name, precision=precision)
    if engine_name == "openvino" and precision in OPENVINO.precisions(settings):
        family = find_family(models)
        form = form_of(settings, family)
        folder = models / "compiled" / form.name
        if not is_whole(folder):
            folder.mkdir(parents=True)
            with mock.patch.object(openvino, "_convert", _convert_once):
                write_form(_loaded(models), family.name, form, folder, settings)
    return load_model(settings)


@functools.lru_cache(maxsize=1)
def _loaded(models: Path) -> TorchModel:
    """With what was baked of it in float32 at hand, as if it had been converted here."""
    family = find_family(models)
    model = family.load(models, False)
    baked = models / "compiled" / form_of(Settings(models_dir=models, precision="float32"), family).name
    for path in baked.glob("*.xml"):
        _converted[getattr(model, path.stem).module] = openvino.library().Core().read_model(path)
    return model


def _convert_once(module: Any, sample: Inputs, any_length: bool) -> Any:
    """What is stored in a lower precision is converted once for all: the conversion takes most of the time."""
    if module not in _converted:
        _converted[module] = _convert(module, sample, any_length)
    return _converted[module].clone()


_convert = openvino._convert
_converted: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def assert_precision(models: Path, engine_name: str, precision: str, texts: Vectors, images: Vectors) -> None:
    """The vectors of TEXTS and pictures() are near those given, of float32, alone and in one batch.

    Or the documented refusal comes.
    """
    engine = ENGINES[engine_name]
    able = engine.precisions(Settings())
    if precision not in able:
        with pytest.raises(ConfigurationError, match=f"PRECISION={precision}: .* takes {', '.join(able)}; choose"):
            load_in(models, engine_name, precision)
        if (engine_name, precision) == ("torch", "float16"):
            _assert_half_precision_as_on_a_gpu(models, texts, images)
        return
    model = load_in(models, engine_name, precision)
    assert model.precision == precision and engine.title in model.engine
    assert_near(np.concatenate([embed(model.text, [text]) for text in TEXTS]), texts, precision)
    assert_near(np.concatenate([embed(model.image, [picture]) for picture in pictures()]), images, precision)
    assert_near(embed(model.text, TEXTS), texts, precision)
    assert_near(embed(model.image, pictures()), images, precision)


def _assert_half_precision_as_on_a_gpu(models: Path, texts: Vectors, images: Vectors) -> None:
    """torch offers float16 on a GPU alone; the module is the same here, so a mixed-up dtype shows."""
    model = find_family(models).load(models, False)
    samples: list[tuple[TorchTower, list[Any], Vectors]]
    samples = [(model.text, TEXTS, texts), (model.image, pictures(), images)]
    for tower, items, want in samples:
        session = TORCH.open(tower.module, "float16", Settings())
        rows = [session.start(collate([tower.processor(item)], tower.padding))() for item in items]
        assert_near(np.concatenate(rows), want, "float16")


def assert_near(got: Vectors, want: Vectors, precision: str) -> None:
    lengths = np.linalg.norm(got, axis=1) * np.linalg.norm(want, axis=1)
    cosines = (got * want).sum(axis=1) / lengths
    assert got.dtype == np.float32 and cosines.min() >= MIN_COSINE[precision], cosines.min()
