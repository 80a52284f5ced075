"""Compiled models: made once, kept beside the model, loaded without torch.

    <models>/compiled/<fingerprint>/   or the same below the cache folder
        manifest.json                  what it was made from and how items are prepared,
                                       or why OpenVINO does not take this model
        image.xml image.bin text.xml text.bin tokenizer.json

A folder appears under its final name only when it is whole, by one rename, so a half-written one is
never loaded and two servers that compile at once do not harm each other.
"""

import fcntl
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from app.contract import ConfigurationError
from app.models import Half, Halves, Model, Padding, Preparation, Tower, check_widths, files
from app.models.families import Family, find_family
from app.models.preparation import ImagePreparation, PatchPreparation, TextPreparation
from app.settings import Settings

_log = logging.getLogger("uvicorn.error")

# Raise it when what is written here changes.
_FORMAT = 3
_INTERRUPTED = 3600  # seconds after which a folder that is being written counts as left behind
_SAMPLE_TEXT = "a photo of a dog"


class NotCompiled(Exception):
    """This model does not run compiled; the message says why."""


def load(settings: Settings, family: Family) -> Model:
    """The compiled model of `settings.models_dir`; compiles it first, in a process of its own, if need be.

    Raises NotCompiled if this model cannot be compiled, ConfigurationError if it is wrong.
    """
    from app.engines.openvino import check_precision

    check_precision(settings)
    fingerprint = files.fingerprint(settings.models_dir, family, version())
    for place in places(settings):
        if _is_whole(place / fingerprint):
            return _load_folder(place / fingerprint, settings, family)
    for place in places(settings):
        if _is_writable(place):
            with _locked(place):
                if not _is_whole(place / fingerprint):  # else another server was first
                    _compile(settings, place)
            return _load_folder(place / fingerprint, settings, family)
    _log.warning("no folder to keep the compiled model in; set CACHE_DIR to a writable folder")
    with tempfile.TemporaryDirectory() as temporary:
        _compile(settings, Path(temporary))
        return _load_folder(Path(temporary) / fingerprint, settings, family)


def alone(models_dir: Path) -> Path | None:
    """The compiled model of a folder that holds nothing else, as a baked image does; None if there is more."""
    folders = [path for path in models_dir.glob("*") if path.is_dir() and path.name != "compiled"]
    whole = [manifest.parent for manifest in models_dir.glob("compiled/*/manifest.json")]
    return whole[0] if len(whole) == 1 and not folders else None


def load_alone(folder: Path, settings: Settings) -> Model:
    """The compiled model in `folder`, which cannot be made again here. Raises ConfigurationError."""
    from app.engines.openvino import check_precision

    check_precision(settings)
    made_from = json.loads((folder / "manifest.json").read_text())["made_from"]
    if made_from != version():
        raise ConfigurationError(f"{folder} was compiled by {made_from}, this is {version()}; bake the model again")
    try:
        return _load_folder(folder, settings, None)
    except NotCompiled as error:
        raise ConfigurationError(f"{folder} is of no use alone: {error}; bake the model again") from error


def places(settings: Settings) -> Iterator[Path]:
    """Where a compiled model may be: beside the model, then in the cache folder."""
    yield settings.models_dir / "compiled"
    yield settings.cache_dir / "compiled"


def version() -> str:
    """What decides, beside the model's files, whether a compiled model still fits."""
    import openvino

    return f"format {_FORMAT}, openvino {openvino.get_version()}"


def _is_whole(folder: Path) -> bool:
    return (folder / "manifest.json").is_file()


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    """One process at a time; the lock goes with the process that holds it."""
    with (place / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_writable(place: Path) -> bool:
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            return True
    except OSError:
        return False


def _compile(settings: Settings, place: Path) -> None:
    """In a process of its own, so that torch does not stay in this one's memory."""
    _log.info("compiling the model into %s; this happens once", place)
    environment = {**os.environ, "MODELS_DIR": str(settings.models_dir)}
    trust = str(files.trust_remote_code(settings)).lower()
    environment["TRUST_REMOTE_CODE"] = trust
    command = [sys.executable, "-m", "app.models.compiled", str(place)]
    root = Path(__file__).resolve().parents[2]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(root), environment.get("PYTHONPATH"))))
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode == 0:
        return
    lines = result.stdout.strip().splitlines() or result.stderr.strip().splitlines() or ["no output"]
    if result.returncode == 1 and result.stdout:
        raise ConfigurationError(lines[-1])
    raise NotCompiled(lines[-1])


def write(models_dir: Path, family: Family, halves: Halves, place: Path) -> Path:
    """Compile both halves into a folder below `place`; returns it.

    Where OpenVINO does not take the model, the folder holds only the reason, so that it is not tried again.
    """
    fingerprint = files.fingerprint(models_dir, family, version())
    place.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".making-", dir=place))
    try:
        try:
            manifest = _convert(halves, made)
        except NotCompiled as error:
            for path in made.iterdir():
                path.unlink()
            manifest = {"refused": str(error)}
        (made / "manifest.json").write_text(json.dumps({"made_from": version(), **manifest}))
        made.chmod(0o755)  # mkdtemp's folder is its owner's alone; another user may serve it
        final = place / fingerprint
        try:
            made.rename(final)
        except OSError:
            if not _is_whole(final):  # else another server was first
                raise
        _remove_stale(place, fingerprint)
        return final
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _convert(halves: Halves, folder: Path) -> dict[str, Any]:
    """Write both halves into `folder`; returns what the manifest says of them. Raises NotCompiled."""
    from app.engines.openvino import convert

    manifest: dict[str, Any] = {"meta": halves.meta}
    for name, half in (("image", halves.image), ("text", halves.text)):
        batch = half.padding.collate([half.prepare(half.sample)] * 2)
        try:
            convert(half.module, batch, folder / f"{name}.xml", any_length=half.padding.max_tokens is not None)
        except MemoryError:
            raise
        except Exception as error:
            raise NotCompiled(f"OpenVINO does not take the {name} model: {files.first_line(error)}") from error
        manifest[name] = {"padding": asdict(half.padding), "preparation": _describe(half, folder)}
    _check(folder, halves)
    return manifest


def _remove_stale(place: Path, fingerprint: str) -> None:
    """What was made from other files or by another version, and what an interrupted process left."""
    for folder in place.iterdir():
        if not folder.is_dir() or folder.name == fingerprint:
            continue
        interrupted = folder.name.startswith(".making-") and time.time() - folder.stat().st_mtime > _INTERRUPTED
        if interrupted or (_is_whole(folder) and not folder.name.startswith(".")):
            shutil.rmtree(folder, ignore_errors=True)


def _describe(half: Half, folder: Path) -> dict[str, Any] | None:
    """JSON from which the preparation can be made again; None if it is the reference library's."""
    if isinstance(half.prepare, ImagePreparation | PatchPreparation):
        return half.prepare.describe()
    if isinstance(half.prepare, TextPreparation):
        return half.prepare.describe(folder)
    return None


def _check(folder: Path, halves: Halves) -> None:
    """Raises NotCompiled unless the compiled halves give the vectors of the torch modules."""
    import torch

    from app.engines.openvino import OpenVINOEngine

    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (90, w, 3), dtype=np.uint8)) for w in (40, 90, 300)]
    samples: dict[str, list[Any]] = {"image": pictures, "text": ["", "a", "a photo of a dog in the snow " * 4]}
    for name, half in (("image", halves.image), ("text", halves.text)):
        engine = OpenVINOEngine(folder / f"{name}.xml", "float32", 0)
        for items in (samples[name], samples[name][:1]):
            batch = half.padding.collate([half.prepare(item) for item in items])
            with torch.inference_mode():
                tensors = {key: torch.from_numpy(array) for key, array in batch.items()}
                want = half.module.eval()(**tensors).numpy()
            got = engine.start(batch)()
            if got.shape != want.shape or not np.allclose(got, want, atol=1e-3 * np.abs(want).max()):
                raise NotCompiled(f"OpenVINO gives other vectors than torch for the {name} model")


def _load_folder(folder: Path, settings: Settings, family: Family | None) -> Model:
    from app.engines.openvino import OpenVINOEngine

    manifest = json.loads((folder / "manifest.json").read_text())
    if "refused" in manifest:
        raise NotCompiled(manifest["refused"])
    towers: dict[str, Tower] = {}
    widths: dict[str, int] = {}
    for name, sample in (("image", Image.new("RGB", (32, 32))), ("text", _SAMPLE_TEXT)):
        description = manifest[name]
        prepare = _preparation(name, description["preparation"], folder, settings, family)
        engine = OpenVINOEngine(folder / f"{name}.xml", settings.precision, settings.threads)
        towers[name] = Tower(prepare, engine, Padding(**description["padding"]))
        widths[name] = towers[name].embed([sample]).shape[1]
        engine.give_back_file_pages()
    width = check_widths(widths["text"], widths["image"])
    return Model(towers["text"], towers["image"], width, manifest["meta"], "OpenVINO on the CPU")


def _preparation(
    name: str, description: dict[str, Any] | None, folder: Path, settings: Settings, family: Family | None
) -> Preparation:
    if description is None:
        if family is None:
            raise ConfigurationError(
                f"{folder} needs the model beside it to prepare its inputs; bake the model again"
            )
        _log.info("the %s model needs the reference library to prepare its inputs", name)
        return family.reference_preparation(settings.models_dir, name, files.trust_remote_code(settings))
    if name == "image":
        kind = PatchPreparation if "max_patches" in description else ImagePreparation
        return kind.from_description(description)
    return TextPreparation.from_description(description, folder)


def main() -> int:
    """python -m app.models.compiled PLACE: compile the model of MODELS_DIR into PLACE.

    Exit status 1: the model is wrong, and the last line of the output says how.
    """
    settings = Settings()
    family = find_family(settings.models_dir)
    try:
        halves = family.load(settings.models_dir, files.trust_remote_code(settings))
        write(settings.models_dir, family, halves, Path(sys.argv[1]))
    except ConfigurationError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
