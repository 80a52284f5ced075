"""Makes a compiled form: `python -m app.models.convert`, the process in which app.models.compile does it.

A process of its own, for torch would stay in the server's memory, and so that it can be stopped.
"""

import argparse
import ctypes
import errno
import importlib
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from app.engines import FileEngine, engine_named
from app.errors import ConfigurationError, NotCompiled, first_line
from app.families.folders import trust_remote_code
from app.families.registry import find_family
from app.models.store import Form, write_manifest
from app.processors.padding import collate
from app.processors.registry import describe
from app.settings import Settings, load_settings
from app.towers import TorchModel, TorchTower, Vectors

_PR_SET_PDEATHSIG = 1
_LONG_TEXT = "a photo of a dog in the snow " * 2000
# How far a value may be from torch's, in parts of the largest one; and how alike a vector must be at least
# where a precision below float32 decides more than the conversion does.
_TOLERANCE = 1e-3
_LEAST_COSINE = 0.9


def write_form(model: TorchModel, family: str, engine: FileEngine, form: Form, folder: Path) -> None:
    """Write both towers of a `family`'s model into `folder`; of a tower that the engine does not take, the reason."""
    towers: dict[str, Any] = {}
    for name, tower in (("image", model.image), ("text", model.text)):
        try:
            towers[name] = _export(name, tower, engine, form.precision, folder)
        except NotCompiled as error:
            for path in folder.glob(f"{name}.*"):
                path.unlink()
            towers[name] = {"refused": f"{engine.title} cannot compute the {name} tower: {error}"}
    write_manifest(folder, form, family, towers, model.meta)


def _export(name: str, tower: TorchTower, engine: FileEngine, precision: str, folder: Path) -> dict[str, Any]:
    """Write a tower, compare it with torch, and describe how its inputs are made."""
    batch = collate([tower.processor(tower.sample)] * 2, tower.padding)
    any_length = tower.padding.max_tokens is not None
    engine.export(tower.module, batch, folder / name, any_length=any_length, precision=precision)
    _compare(name, tower, engine, precision, folder)
    return {"padding": asdict(tower.padding), "processor": describe(tower.processor, folder)}


def _compare(name: str, tower: TorchTower, engine: FileEngine, precision: str, folder: Path) -> None:
    """Raises NotCompiled unless the compiled tower gives the vectors of its torch module."""
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (90, w, 3), dtype=np.uint8)) for w in (40, 90, 300)]
    texts = ["", "a", "a photo of a dog in the snow " * 4]
    samples: dict[str, list[list[Any]]] = {
        "image": [pictures, pictures[:1]],
        "text": [texts, texts[:1], [_LONG_TEXT]],
    }
    session = engine.open_file(folder / name, precision, Settings())
    for items in samples[name]:
        batch = collate([tower.processor(item) for item in items], tower.padding)
        try:
            want = _on_torch(tower, batch)
        except (IndexError, RuntimeError) as error:
            if items == [_LONG_TEXT]:
                tokens = len(batch["input_ids"][0])
                raise NotCompiled(
                    f"torch itself fails on a text of {tokens} tokens, which the model allows: {first_line(error)}"
                ) from error
            raise
        got = session.start(batch)()
        if not _alike(got, want, precision):
            raise NotCompiled("it gives other vectors than torch")


def _on_torch(tower: TorchTower, batch: dict[str, Any]) -> Vectors:
    import torch

    with torch.inference_mode():
        tensors = {key: torch.from_numpy(array) for key, array in batch.items()}
        vectors: Vectors = tower.module.eval()(**tensors).numpy()
    return vectors


def _alike(got: Vectors, want: Vectors, precision: str) -> bool:
    if got.shape != want.shape:
        return False
    if precision == "float32":
        return np.allclose(got, want, atol=_TOLERANCE * np.abs(want).max())
    lengths = np.linalg.norm(got, axis=1) * np.linalg.norm(want, axis=1)
    return bool(((got * want).sum(axis=1) >= _LEAST_COSINE * lengths).all())


def _end_with(parent: int) -> None:
    """Where the system can tell: end as soon as the process that waits for this one has ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # ended before it could be told
            os._exit(1)


def main() -> int:
    """Prints one line of JSON: {} or {"error": what failed, in words, "kind": see _failure}."""
    parser = argparse.ArgumentParser(description="started by app.models.compile")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--form", type=json.loads, required=True)
    parser.add_argument("--import", dest="module", required=True, help="the module that registers the engine")
    arguments = parser.parse_args()
    _end_with(arguments.parent)
    answer = os.dup(1)
    os.dup2(2, 1)  # libraries print what is for the log
    result: dict[str, str] = {}
    try:
        importlib.import_module(arguments.module)
        form = Form(**arguments.form)
        engine = engine_named(form.engine)
        assert isinstance(engine, FileEngine)
        settings = load_settings()
        family = find_family(settings.models_dir)
        model = family.load(settings.models_dir, trust_remote_code(settings))
        write_form(model, family.name, engine, form, arguments.folder)
    except Exception as error:
        if not isinstance(error, ConfigurationError):
            sys.excepthook(type(error), error, error.__traceback__)
        result = _failure(error, arguments.folder)
    with os.fdopen(answer, "w", encoding="utf-8") as file:
        file.write(json.dumps(result))
    return bool(result)


def _failure(error: Exception, folder: Path) -> dict[str, str]:
    """The `kind` is "model" if the model is wrong, "space" if the disk is full, else "other"."""
    if isinstance(error, ConfigurationError):
        return {"kind": "model", "error": str(error)}
    if _is_full(folder) or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)):
        return {"kind": "space", "error": "the disk is full"}
    if isinstance(error, MemoryError):
        return {"kind": "other", "error": "the memory does not suffice"}
    return {"kind": "other", "error": first_line(error)}


def _is_full(folder: Path) -> bool:
    """Whether a megabyte can still be written; libraries do not tell why they could not write."""
    try:
        with (folder / "test").open("wb") as file:
            file.write(b"\0" * 2**20)
    except OSError:
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
