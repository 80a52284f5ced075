"""From settings to a model that has run a first inference."""

import importlib.util
import logging
import tempfile
from pathlib import Path
from typing import Any

from app.errors import ConfigurationError
from app.families.family import Family
from app.families.folders import check_model, trust_remote_code
from app.families.registry import find_family
from app.models.batches import open_tower
from app.models.compile import NotCompiled, compile_in_process, made_from
from app.models.embed import common_width
from app.models.store import (
    compiled_only,
    fingerprint,
    is_whole,
    is_writable,
    locked,
    read_manifest,
    store_folders,
)
from app.processors.registry import from_description
from app.settings import Settings
from app.towers import LoadedModel, Padding, Processor, TorchTower, Tower

_log = logging.getLogger(__name__)


def load_model(settings: Settings) -> LoadedModel:
    """Load the model below `settings.models_dir` on the engine that the settings choose.

    Raises ConfigurationError that names what is wrong and says how to mend it.
    """
    if (folder := compiled_only(settings.models_dir)) is not None:
        if settings.enable_cuda or settings.engine == "torch":
            raise ConfigurationError(
                f"{settings.models_dir} holds the compiled model alone, which OpenVINO computes on the CPU; bake the "
                "model for a GPU (build argument DEVICE=cuda), or unset ENABLE_CUDA and ENGINE"
            )
        return _load_compiled_only(folder, settings)
    family = find_family(settings.models_dir)
    check_model(settings.models_dir, family)
    if _chosen_engine(settings) == "openvino":
        try:
            return _load_compiled(settings, family)
        except NotCompiled as error:
            if settings.engine == "openvino":
                raise ConfigurationError(f"ENGINE=openvino: {error}; set ENGINE=auto or torch") from error
            _log.warning("ENGINE=auto uses torch, which is slower: %s", error)
    return _load_on_torch(settings, family)


def _chosen_engine(settings: Settings) -> str:
    installed = importlib.util.find_spec("openvino") is not None
    if settings.engine == "openvino":
        if settings.enable_cuda:
            raise ConfigurationError("ENGINE=openvino computes on the CPU; unset ENABLE_CUDA or set ENGINE=torch")
        if not installed:
            raise ConfigurationError("ENGINE=openvino: OpenVINO is not installed; pip install openvino")
        return "openvino"
    if settings.engine == "torch" or settings.enable_cuda:
        return "torch"
    if not installed:
        _log.warning("ENGINE=auto uses torch, which is slower: OpenVINO is not installed (pip install openvino)")
        return "torch"
    return "openvino"


def _load_compiled(settings: Settings, family: Family) -> LoadedModel:
    """The compiled model; compiles it first, in a process of its own, if need be.

    Raises NotCompiled if this model cannot be compiled, ConfigurationError if it is wrong.
    """
    from app.engines.openvino import check_precision

    check_precision(settings)
    name = fingerprint(settings.models_dir, family, made_from())
    for place in store_folders(settings):
        if is_whole(place / name):
            return _open(place / name, settings, family)
    for place in store_folders(settings):
        if is_writable(place):
            with locked(place):
                if not is_whole(place / name):  # else another server was first
                    compile_in_process(settings, place)
            return _open(place / name, settings, family)
    _log.warning("no folder to keep the compiled model in; set CACHE_DIR to a writable folder")
    with tempfile.TemporaryDirectory() as temporary:
        compile_in_process(settings, Path(temporary))
        return _open(Path(temporary) / name, settings, family)


def _load_compiled_only(folder: Path, settings: Settings) -> LoadedModel:
    """The compiled model in `folder`, which cannot be made again here. Raises ConfigurationError."""
    from app.engines.openvino import check_precision

    check_precision(settings)
    version = read_manifest(folder)["made_from"]
    if version != made_from():
        raise ConfigurationError(f"{folder} was compiled by {version}, this is {made_from()}; bake the model again")
    try:
        return _open(folder, settings, None)
    except NotCompiled as error:
        raise ConfigurationError(f"{folder} is of no use alone: {error}; bake the model again") from error


def _open(folder: Path, settings: Settings, family: Family | None) -> LoadedModel:
    from app.engines.openvino import OpenVINOSession

    manifest = read_manifest(folder)
    if "refused" in manifest:
        raise NotCompiled(manifest["refused"])
    towers: dict[str, Tower] = {}
    widths: dict[str, int] = {}
    for name in ("image", "text"):
        description = manifest[name]
        processor = _processor(name, description["preparation"], folder, settings, family)
        session = OpenVINOSession(folder / f"{name}.xml", settings.precision, settings.threads)
        padding = Padding(**description["padding"])
        towers[name], widths[name] = open_tower(name, processor, session, padding, settings)
        session.give_back_file_pages()
    width = common_width(widths["text"], widths["image"])
    return LoadedModel(towers["text"], towers["image"], width, manifest["meta"], "OpenVINO on the CPU")


def _processor(
    name: str, description: dict[str, Any] | None, folder: Path, settings: Settings, family: Family | None
) -> Processor:
    if description is None:
        if family is None:
            raise ConfigurationError(
                f"{folder} needs the model beside it to prepare its inputs; bake the model again"
            )
        _log.info("the %s model needs the reference library to prepare its inputs", name)
        return family.library_processor(settings.models_dir, name, trust_remote_code(settings))
    return from_description(description, folder)


def _load_on_torch(settings: Settings, family: Family) -> LoadedModel:
    try:
        from app.engines import torch as torch_engine
    except ImportError as error:
        raise ConfigurationError(
            f"this model needs {error.name}, which is not installed; pip install -r requirements.txt"
        ) from error
    device = torch_engine.torch_device(settings)
    dtype = torch_engine.torch_dtype(settings, device)
    model = family.load(settings.models_dir, trust_remote_code(settings))

    def opened(kind: str, tower: TorchTower) -> tuple[Tower, int]:
        session = torch_engine.TorchSession(tower.module, device, dtype)
        return open_tower(kind, tower.processor, session, tower.padding, settings)

    text, text_width = opened("text", model.text)
    image, image_width = opened("image", model.image)
    return LoadedModel(text, image, common_width(text_width, image_width), model.meta, f"torch on {device}")
