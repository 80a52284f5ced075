"""From settings to a model that has run a first inference."""

import logging
import threading
from pathlib import Path
from typing import Any

from app.engines import OPENVINO, TORCH, Engine, check_precision, choose_engine, chosen_precision, torch_instead
from app.errors import CompilingFailed, ConfigurationError, NotCompiled
from app.families.folders import check_model
from app.families.registry import Family, find_family
from app.models.batches import open_tower
from app.models.compile import compiled_form
from app.models.store import FORMAT, compiled_only, read_manifest
from app.processors.registry import from_description
from app.settings import Settings
from app.towers import LoadedModel, Padding, TorchModel, TorchTower, Tower

_log = logging.getLogger(__name__)


def load_model(
    settings: Settings, stop: threading.Event | None = None, *, served_elsewhere: bool = False
) -> LoadedModel:
    """Load the model below `settings.models_dir` on the engine that the settings choose.

    With `served_elsewhere`, as in baking, also in a precision in which only another machine computes: what is
    kept is in that precision, and tried here in one that this machine has. Raises ConfigurationError that names
    what is wrong and says how to mend it, and Stopped soon after `stop` is set while the model is compiled.
    """
    if form := compiled_only(settings.models_dir):
        return _load_compiled_only(form, settings, served_elsewhere)
    family = find_family(settings.models_dir)
    check_model(settings.models_dir, family)
    engine = choose_engine(settings)
    if engine is TORCH:
        family.require_libraries()
    settings = _in_precision(engine, settings, served_elsewhere)
    if engine is OPENVINO:
        try:
            with compiled_form(settings, family, stop or threading.Event()) as folder:
                return _load_compiled(folder, settings, family)
        except (CompilingFailed, NotCompiled) as error:
            torch_instead(settings, str(error))
    return _load_modules(settings, family)


def _in_precision(engine: Engine, settings: Settings, served_elsewhere: bool) -> Settings:
    """The settings with the precision in which the model is loaded; raises ConfigurationError if there is none."""
    precision = chosen_precision(settings)
    if not served_elsewhere or precision in engine.precisions(settings):
        check_precision(engine, settings)
        return settings
    _log.warning(
        "this machine does not compute in %s, so the model is tried in another precision; the machine that serves it "
        "must have it",
        precision,
    )
    # OpenVINO computes what is stored in the next precision that it has.
    return settings if engine is OPENVINO else settings.model_copy(update={"precision": "float32"})


def _load_compiled_only(form: Path, settings: Settings, served_elsewhere: bool) -> LoadedModel:
    """A compiled form that cannot be made again here. Raises ConfigurationError."""
    models_dir = settings.models_dir
    if settings.enable_cuda or settings.engine == "torch":
        raise ConfigurationError(
            f"{models_dir} holds the compiled model alone, which OpenVINO computes on the CPU; bake the model for a "
            "GPU (build argument DEVICE=cuda), or unset ENABLE_CUDA and ENGINE"
        )
    manifest = read_manifest(form)
    precision = manifest["precision"]
    if settings.precision not in (None, precision):
        raise ConfigurationError(
            f"PRECISION={settings.precision}: {models_dir} holds the model compiled in {precision} alone; "
            "bake it in this precision, or choose another"
        )
    made_by, this = [manifest["format"], manifest["version"]], [FORMAT, OPENVINO.version()]
    if made_by != this:
        raise ConfigurationError(
            f"{form} was compiled by OpenVINO {made_by[1]} (format {made_by[0]}), this is {this[1]} "
            f"(format {this[0]}); bake the model again"
        )
    settings = _in_precision(OPENVINO, settings.model_copy(update={"precision": precision}), served_elsewhere)
    try:
        return _load_compiled(form, settings, None)
    except NotCompiled as error:
        raise ConfigurationError(f"{form} cannot serve alone: {error}; bake the model again") from error


def _load_compiled(folder: Path, settings: Settings, family: Family | None) -> LoadedModel:
    """The towers in `folder`. Raises NotCompiled where OpenVINO did not take one.

    A library that prepares inputs comes from the `family`; raises NotCompiled where that is None, too.
    """
    manifest = read_manifest(folder)
    for tower in manifest["towers"].values():
        if "refused" in tower:
            raise NotCompiled(tower["refused"])
    library: TorchModel | None = None
    towers: dict[str, Tower] = {}
    for name, tower in manifest["towers"].items():
        if tower["processor"] is not None:
            processor = from_description(tower["processor"], folder)
        elif family is None:
            raise NotCompiled(f"the reference library prepares the inputs of the {name} tower")
        else:
            library = library or family.load(settings.models_dir, settings.trust_remote_code)
            own: TorchTower = getattr(library, name)
            own.module.to("meta")  # frees its weights
            processor = own.processor
        session = OPENVINO.open(folder / name, chosen_precision(settings), settings)
        towers[name] = open_tower(name, processor, session, Padding(**tower["padding"]), settings)
    engine = f"{OPENVINO.title} on {OPENVINO.device(settings)}"
    return _loaded(towers, manifest["meta"], engine, settings, manifest["family"], folder)


def _load_modules(settings: Settings, family: Family) -> LoadedModel:
    """The model as torch computes it."""
    model = family.load(settings.models_dir, settings.trust_remote_code)
    towers: dict[str, Tower] = {}
    for name, tower in (("text", model.text), ("image", model.image)):
        session = TORCH.open(tower.module, chosen_precision(settings), settings)
        towers[name] = open_tower(name, tower.processor, session, tower.padding, settings)
    engine = f"{TORCH.title} on {TORCH.device(settings)}"
    return _loaded(towers, model.meta, engine, settings, family.name, settings.models_dir)


def _loaded(
    towers: dict[str, Tower], meta: dict[str, Any], engine: str, settings: Settings, family: str, folder: Path
) -> LoadedModel:
    """Raises ConfigurationError if the towers' vectors differ in width."""
    text, image = towers["text"], towers["image"]
    if text.width != image.width:
        raise ConfigurationError(
            f"the text model gives vectors of width {text.width}, the image model of width {image.width}; "
            "choose a text model that was made for this image model"
        )
    return LoadedModel(text, image, image.width, meta, engine, chosen_precision(settings), family, str(folder))
