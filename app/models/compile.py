"""The compiled form of a model: found, or made by a process of its own."""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from app.engines import OPENVINO, TORCH, chosen_precision
from app.errors import ConfigurationError, DiskFull, NotCompiled
from app.families.folders import check_model, fingerprint, load_torch_model
from app.families.registry import Family, find_family
from app.models import store
from app.models.child import run_in_child
from app.models.store import Form
from app.processors.padding import collate
from app.processors.registry import describe
from app.settings import Settings
from app.towers import TorchModel, TorchTower, Vectors

_log = logging.getLogger(__name__)

# How far a value may be from torch's, in parts of the largest one; and how alike a vector must be at least
# where a precision below float32 decides more than the conversion does.
_TOLERANCE = 1e-3
_MIN_COSINE = 0.9


def form_of(settings: Settings, family: Family) -> Form:
    """The compiled form that serves the model of these settings."""
    folders = (settings.models_dir / folder.name for folder in family.folders)
    content = fingerprint(*folders, below=settings.models_dir)
    return Form(content, chosen_precision(settings), OPENVINO.version())


@contextmanager
def compiled_form(settings: Settings, family: Family, stop: threading.Event) -> Iterator[Path]:
    """The folder of the compiled form, which is made in the first place with room for it, if need be.

    Raises CompilingFailed, ConfigurationError if the model is wrong, and Stopped.
    """
    form = form_of(settings, family)
    for place in store.store_folders(settings):
        if store.is_whole(place / form.name):
            yield place / form.name
            return
    failure: DiskFull | None = None
    for place in filter(store.is_writable, store.store_folders(settings)):
        try:
            _compile_into(place, form, settings, stop)
        except DiskFull as error:
            _log.warning("%s: %s", place, error)
            failure = error
        else:
            yield place / form.name
            return
    if failure is not None:
        raise failure
    _log.warning("no folder to keep the compiled model in; set CACHE_DIR to a writable folder")
    with TemporaryDirectory() as temporary:
        _compile_into(Path(temporary), form, settings, stop)
        yield Path(temporary, form.name)


def compile_model(settings: Settings, place: Path, stop: threading.Event | None = None) -> Path:
    """Compile the model of MODELS_DIR in PRECISION into a folder below `place`, unless it is there already.

    Returns that folder. Raises ConfigurationError and CompilingFailed, whose messages are for the user.
    """
    family = find_family(settings.models_dir)
    check_model(settings.models_dir, family)
    if settings.engine == "torch":
        raise ConfigurationError("ENGINE=torch computes a model as it is; there is nothing to compile")
    if not store.is_writable(place):
        raise ConfigurationError(f"{place} is not a writable folder")
    form = form_of(settings, family)
    _compile_into(place, form, settings, stop or threading.Event())
    return place / form.name


def _compile_into(place: Path, form: Form, settings: Settings, stop: threading.Event) -> None:
    with store.one_at_a_time(place, stop) as locked:
        if store.is_whole(place / form.name):
            return  # another process was first
        _log.info("compiling the model in %s into %s; this happens once", form.precision, place)
        with store.being_written(place, form) as folder:
            own = settings.model_dump(mode="json", include={"models_dir", "threads", "trust_remote_code"})
            task = {"settings": own, "form": asdict(form), "folder": str(folder)}
            run_in_child("app.models.compile", "compiling", task, stop)
        if locked:
            store.remove_stale(place, form, shared=place.parent != settings.models_dir)


def work(task: Mapping[str, Any]) -> None:
    """In the process that _compile_into() starts."""
    settings = Settings(**task["settings"], enable_cuda=False)
    family = find_family(settings.models_dir)
    write_form(load_torch_model(settings, family), family.name, Form(**task["form"]), Path(task["folder"]), settings)


def write_form(model: TorchModel, family: str, form: Form, folder: Path, settings: Settings) -> None:
    """Write both towers of a `family`'s model into `folder`, or the reason if OpenVINO does not take one of them."""
    towers: dict[str, Any] = {}
    for name, tower in (("image", model.image), ("text", model.text)):
        batch = collate([tower.processor(tower.sample)] * 2, tower.padding)
        any_length = tower.padding.max_tokens is not None
        try:
            OPENVINO.export(tower.module, batch, folder / name, any_length=any_length, precision=form.precision)
            _compare(name, tower, form.precision, folder, settings)
        except NotCompiled as error:
            for path in folder.iterdir():
                path.unlink()
            towers[name] = {"refused": f"{OPENVINO.title} cannot compute the {name} tower: {error}"}
            break
        towers[name] = {"padding": asdict(tower.padding), "processor": describe(tower.processor, folder)}
    store.write_manifest(folder, form, family, towers, model.meta)


def _compare(name: str, tower: TorchTower, precision: str, folder: Path, settings: Settings) -> None:
    """Raises NotCompiled unless the compiled tower gives the vectors of its torch module."""
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (90, w, 3), dtype=np.uint8)) for w in (40, 90, 300)]
    texts = ["", "a", "a photo of a dog in the snow " * 4]
    long_text = "a photo of a dog in the snow " * 2000
    samples: dict[str, list[list[Any]]] = {
        "image": [pictures, pictures[:1]],
        "text": [texts, texts[:1], [long_text]],
    }
    reference = TORCH.open(tower.module, "float32", settings)
    compiled = OPENVINO.open(folder / name, precision, settings)
    for items in samples[name]:
        batch = collate([tower.processor(item) for item in items], tower.padding)
        if not _alike(compiled.start(batch)(), reference.start(batch)(), precision):
            raise NotCompiled("it gives other vectors than torch")


def _alike(got: Vectors, want: Vectors, precision: str) -> bool:
    if precision == "float32":
        return np.allclose(got, want, atol=_TOLERANCE * np.abs(want).max())
    lengths = np.linalg.norm(got, axis=1) * np.linalg.norm(want, axis=1)
    return bool(((got * want).sum(axis=1) >= _MIN_COSINE * lengths).all())
