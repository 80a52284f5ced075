"""Compiles a model's towers and checks them, in a process of its own.

That way torch does not stay in the server's memory.
"""

import json
import logging
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from app.errors import ConfigurationError, first_line
from app.families.family import Family
from app.families.folders import trust_remote_code
from app.families.registry import find_family
from app.models.store import being_written, fingerprint
from app.processors.padding import collate
from app.processors.registry import describe
from app.settings import Settings
from app.towers import TorchModel

_log = logging.getLogger(__name__)

# Raise it when what is written here changes.
_FORMAT = 4


class NotCompiled(Exception):
    """This model does not run compiled; the message says why."""


def made_from() -> str:
    """What decides, beside the model's files, whether a compiled model still fits."""
    import openvino

    return f"format {_FORMAT}, openvino {openvino.get_version()}"


def compile_in_process(settings: Settings, place: Path) -> None:
    """In a process of its own, so that torch does not stay in this one's memory."""
    _log.info("compiling the model into %s; this happens once", place)
    environment = {**os.environ, "MODELS_DIR": str(settings.models_dir)}
    trust = str(trust_remote_code(settings)).lower()
    environment["TRUST_REMOTE_CODE"] = trust
    command = [sys.executable, "-m", "app.models.compile", str(place)]
    root = Path(__file__).resolve().parents[2]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(root), environment.get("PYTHONPATH"))))
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode == 0:
        return
    lines = result.stdout.strip().splitlines() or result.stderr.strip().splitlines() or ["no output"]
    if result.returncode == 1 and result.stdout:
        raise ConfigurationError(lines[-1])
    raise NotCompiled(lines[-1])


def write(models_dir: Path, family: Family, model: TorchModel, place: Path) -> None:
    """Compile both towers into a folder below `place`.

    Where the engine does not take the model, the folder holds only the reason, so that it is not tried again.
    """
    with being_written(place, fingerprint(models_dir, family, made_from())) as folder:
        try:
            manifest = _convert(model, folder)
        except NotCompiled as error:
            for path in folder.iterdir():
                path.unlink()
            manifest = {"refused": str(error)}
        (folder / "manifest.json").write_text(json.dumps({"made_from": made_from(), **manifest}))


def _convert(model: TorchModel, folder: Path) -> dict[str, Any]:
    """Write both torch_model into `folder`; returns what the manifest says of them. Raises NotCompiled."""
    from app.engines.openvino import convert

    manifest: dict[str, Any] = {"meta": model.meta}
    for name, tower in (("image", model.image), ("text", model.text)):
        batch = collate([tower.processor(tower.sample)] * 2, tower.padding)
        try:
            convert(tower.module, batch, folder / f"{name}.xml", any_length=tower.padding.max_tokens is not None)
        except MemoryError:
            raise
        except Exception as error:
            raise NotCompiled(f"OpenVINO does not take the {name} model: {first_line(error)}") from error
        manifest[name] = {"padding": asdict(tower.padding), "preparation": describe(tower.processor, folder)}
    _check(folder, model)
    return manifest


def _check(folder: Path, model: TorchModel) -> None:
    """Raises NotCompiled unless the compiled torch_model give the vectors of the torch modules."""
    import torch

    from app.engines.openvino import OpenVINOSession

    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (90, w, 3), dtype=np.uint8)) for w in (40, 90, 300)]
    samples: dict[str, list[Any]] = {"image": pictures, "text": ["", "a", "a photo of a dog in the snow " * 4]}
    for name, tower in (("image", model.image), ("text", model.text)):
        engine = OpenVINOSession(folder / f"{name}.xml", "float32", 0)
        for items in (samples[name], samples[name][:1]):
            batch = collate([tower.processor(item) for item in items], tower.padding)
            with torch.inference_mode():
                tensors = {key: torch.from_numpy(array) for key, array in batch.items()}
                want = tower.module.eval()(**tensors).numpy()
            got = engine.start(batch)()
            if got.shape != want.shape or not np.allclose(got, want, atol=1e-3 * np.abs(want).max()):
                raise NotCompiled(f"OpenVINO gives other vectors than torch for the {name} model")


def main() -> int:
    """python -m app.models.compile PLACE: compile the model of MODELS_DIR into PLACE.

    Exit status 1: the model is wrong, and the last line of the output says how.
    """
    settings = Settings()
    family = find_family(settings.models_dir)
    try:
        model = family.load(settings.models_dir, trust_remote_code(settings))
        write(settings.models_dir, family, model, Path(sys.argv[1]))
    except ConfigurationError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
