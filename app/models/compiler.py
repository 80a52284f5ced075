"""Makes a compiled form, in a process of its own."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from app.engines import OPENVINO, TORCH
from app.errors import NotCompiled, first_line
from app.families.registry import find_family
from app.models.store import Form, write_manifest
from app.processors.padding import collate
from app.processors.registry import describe
from app.settings import Settings
from app.towers import TorchModel, TorchTower, Vectors

_LONG_TEXT = "a photo of a dog in the snow " * 2000
# How far a value may be from torch's, in parts of the largest one; and how alike a vector must be at least
# where a precision below float32 decides more than the conversion does.
_TOLERANCE = 1e-3
_MIN_COSINE = 0.9


def write_form(model: TorchModel, family: str, form: Form, folder: Path, settings: Settings) -> None:
    """Write both towers of a `family`'s model into `folder`; of a tower that OpenVINO does not take, the reason."""
    towers: dict[str, Any] = {}
    for name, tower in (("image", model.image), ("text", model.text)):
        batch = collate([tower.processor(tower.sample)] * 2, tower.padding)
        any_length = tower.padding.max_tokens is not None
        try:
            OPENVINO.export(tower.module, batch, folder / name, any_length=any_length, precision=form.precision)
            _compare(name, tower, form.precision, folder, settings)
        except NotCompiled as error:
            for path in folder.glob(f"{name}.*"):
                path.unlink()
            towers[name] = {"refused": f"{OPENVINO.title} cannot compute the {name} tower: {error}"}
        else:
            towers[name] = {"padding": asdict(tower.padding), "processor": describe(tower.processor, folder)}
    write_manifest(folder, form, family, towers, model.meta)


def _compare(name: str, tower: TorchTower, precision: str, folder: Path, settings: Settings) -> None:
    """Raises NotCompiled unless the compiled tower gives the vectors of its torch module."""
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (90, w, 3), dtype=np.uint8)) for w in (40, 90, 300)]
    texts = ["", "a", "a photo of a dog in the snow " * 4]
    samples: dict[str, list[list[Any]]] = {
        "image": [pictures, pictures[:1]],
        "text": [texts, texts[:1], [_LONG_TEXT]],
    }
    reference = TORCH.open(tower.module, "float32", settings)
    compiled = OPENVINO.open(folder / name, precision, settings)
    for items in samples[name]:
        batch = collate([tower.processor(item) for item in items], tower.padding)
        try:
            want = reference.start(batch)()
        except (IndexError, RuntimeError) as error:
            if items == [_LONG_TEXT]:
                tokens = len(batch["input_ids"][0])
                raise NotCompiled(
                    f"torch itself fails on a text of {tokens} tokens, which the model allows: {first_line(error)}"
                ) from error
            raise
        if not _alike(compiled.start(batch)(), want, precision):
            raise NotCompiled("it gives other vectors than torch")


def _alike(got: Vectors, want: Vectors, precision: str) -> bool:
    if got.shape != want.shape:
        return False
    if precision == "float32":
        return np.allclose(got, want, atol=_TOLERANCE * np.abs(want).max())
    lengths = np.linalg.norm(got, axis=1) * np.linalg.norm(want, axis=1)
    return bool(((got * want).sum(axis=1) >= _MIN_COSINE * lengths).all())


def work(task: Mapping[str, Any]) -> None:
    """In the process that app.models.compile starts."""
    settings = Settings(**task["settings"], enable_cuda=False)
    family = find_family(settings.models_dir)
    model = family.load(settings.models_dir, settings.trust_remote_code)
    write_form(model, family.name, Form(**task["form"]), Path(task["folder"]), settings)
