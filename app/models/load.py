"""From settings to a model that has run a first inference."""

import logging
import threading
from pathlib import Path
from typing import Any

from app.engines import ENGINES, FileEngine, ModuleEngine
from app.errors import CompilingFailed, ConfigurationError
from app.families.family import Family
from app.families.folders import check_model, trust_remote_code
from app.families.registry import find_family
from app.models.batches import open_tower
from app.models.compile import compiled_form
from app.models.engine import check_precision, chosen_engine, chosen_precision, next_engine
from app.models.store import FORMAT, compiled_only, in_use, read_manifest
from app.processors.registry import from_description
from app.settings import Settings
from app.towers import LoadedModel, Padding, Processor, Tower

_log = logging.getLogger(__name__)


def load_model(
    settings: Settings, stop: threading.Event | None = None, *, served_elsewhere: bool = False
) -> LoadedModel:
    """Load the model below `settings.models_dir` on the engine that the settings choose.

    With `served_elsewhere`, as in baking, also in a precision in which only another machine computes: what is
    kept is in that precision, and tried here in one that this machine has. Raises ConfigurationError that names
    what is wrong and says how to mend it, and Stopped soon after `stop` is set while the model is compiled.
    """
    if forms := compiled_only(settings.models_dir):
        return _load_compiled_only(forms, settings, served_elsewhere)
    family = find_family(settings.models_dir)
    check_model(settings.models_dir, family)
    engine = chosen_engine(settings)
    settings = _in_precision(engine, settings, served_elsewhere)
    if isinstance(engine, ModuleEngine):
        return _load_on_modules(settings, family, engine)
    try:
        with compiled_form(settings, family, engine, stop or threading.Event()) as folder:
            return _open(folder, engine, settings, family)
    except CompilingFailed as error:
        return _load_on_modules(settings, family, next_engine(settings, engine, str(error)))


def _in_precision(engine: FileEngine | ModuleEngine, settings: Settings, served_elsewhere: bool) -> Settings:
    """The settings with the precision in which the model is loaded; raises ConfigurationError if there is none."""
    precision, able = chosen_precision(settings), engine.precisions(settings)
    if precision in able or not served_elsewhere:
        check_precision(engine, settings)
        return settings
    _log.warning(
        "this machine does not compute in %s (%s takes %s), so the model is tried in another precision; the machine "
        "that serves it must have %s",
        precision,
        engine.title,
        ", ".join(able),
        precision,
    )
    # An engine of files computes what is stored in the next precision that it has.
    return settings.model_copy(update={"precision": "float32"}) if isinstance(engine, ModuleEngine) else settings


def _load_compiled_only(forms: list[Path], settings: Settings, served_elsewhere: bool) -> LoadedModel:
    """One of the compiled forms, which cannot be made again here. Raises ConfigurationError."""
    models_dir, manifests = settings.models_dir, [read_manifest(form) for form in forms]
    precisions = [manifest.get("precision") for manifest in manifests]
    wanted = chosen_precision(settings) if settings.precision or len(forms) > 1 else precisions[0]
    if wanted not in precisions:
        raise ConfigurationError(
            f"PRECISION={wanted}: {models_dir} holds the model compiled in {', '.join(map(str, precisions))} alone; "
            "bake it in this precision, or choose another"
        )
    folder, manifest = forms[precisions.index(wanted)], manifests[precisions.index(wanted)]
    engine = next((each for each in ENGINES if each.name == manifest.get("engine")), None)
    if not isinstance(engine, FileEngine):
        raise ConfigurationError(f"{folder} was compiled by another version of this server; bake the model again")
    if settings.enable_cuda or settings.engine not in ("auto", engine.name):
        raise ConfigurationError(
            f"{models_dir} holds the compiled model alone, which {engine.title} computes on the CPU; bake the "
            "model for a GPU (build argument DEVICE=cuda), or unset ENABLE_CUDA and ENGINE"
        )
    if missing := engine.missing():
        raise ConfigurationError(f"{folder} cannot be computed: {missing}")
    settings = _in_precision(engine, settings.model_copy(update={"precision": wanted}), served_elsewhere)
    made_by, this = (manifest["format"], manifest["version"]), (FORMAT, engine.version())
    if made_by != this:
        raise ConfigurationError(
            f"{folder} was compiled by {engine.title} {made_by[1]} (format {made_by[0]}), this is {this[1]} "
            f"(format {this[0]}); bake the model again"
        )
    with in_use(folder):
        return _open(folder, engine, settings, None)


def _open(folder: Path, engine: FileEngine, settings: Settings, family: Family | None) -> LoadedModel:
    """The towers in `folder`; a tower that the engine did not take is computed by the next one.

    Without a `family` there is nothing but the folder.
    """
    manifest = read_manifest(folder)
    precision = chosen_precision(settings)
    towers: dict[str, Tower] = {}
    widths: dict[str, int] = {}
    names = [f"{engine.title} on {engine.device(settings)}"]
    refused = {name: tower["refused"] for name, tower in manifest["towers"].items() if "refused" in tower}
    for name, tower in manifest["towers"].items():
        if name in refused:
            continue
        processor = _processor(name, tower["processor"], folder, settings, family)
        session = engine.open_file(folder / name, precision, settings)
        towers[name], widths[name] = open_tower(
            name, processor, session, Padding(**tower["padding"]), settings, folder
        )
    if refused:
        reason = "; ".join(refused.values())
        if family is None:
            raise ConfigurationError(f"{folder} is of no use alone: {reason}; bake the model again")
        other = next_engine(settings, engine, reason)
        model = family.load(settings.models_dir, trust_remote_code(settings))
        for name in refused:
            source = model.image if name == "image" else model.text
            session = other.open_module(source.module, precision, settings)
            towers[name], widths[name] = open_tower(name, source.processor, session, source.padding, settings)
            names.append(f"the {name} tower by {other.title}")
    width = _common_width(widths["text"], widths["image"])
    return LoadedModel(
        text=towers["text"],
        image=towers["image"],
        width=width,
        meta=manifest["meta"],
        engine=", ".join(names),
        precision=precision,
        family=manifest["family"],
        folder=str(folder),
    )


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


def _load_on_modules(settings: Settings, family: Family, engine: ModuleEngine) -> LoadedModel:
    model = family.load(settings.models_dir, trust_remote_code(settings))
    precision = chosen_precision(settings)
    towers: dict[str, Tower] = {}
    widths: dict[str, int] = {}
    for name, tower in (("text", model.text), ("image", model.image)):
        session = engine.open_module(tower.module, precision, settings)
        towers[name], widths[name] = open_tower(name, tower.processor, session, tower.padding, settings)
    width = _common_width(widths["text"], widths["image"])
    return LoadedModel(
        text=towers["text"],
        image=towers["image"],
        width=width,
        meta=model.meta,
        engine=f"{engine.title} on {engine.device(settings)}",
        precision=precision,
        family=family.name,
        folder=str(settings.models_dir),
    )


def _common_width(text: int, image: int) -> int:
    """The width of both towers; raises ConfigurationError if they differ."""
    if text != image:
        raise ConfigurationError(
            f"the text model gives vectors of width {text}, the image model of width {image}; "
            "choose a text model that was made for this image model"
        )
    return image
