"""Which engine computes the model, and in which precision."""

import logging

from app.engines import ENGINES, FileEngine, ModuleEngine, engine_named
from app.errors import ConfigurationError
from app.settings import Settings

_log = logging.getLogger(__name__)


def chosen_engine(settings: Settings) -> FileEngine | ModuleEngine:
    """The engine that ENGINE names, or the first that is there; raises ConfigurationError if it is not."""
    device = "cuda" if settings.enable_cuda else "cpu"
    if settings.engine != "auto":
        engine = engine_named(settings.engine)
        if device not in engine.devices:
            raise ConfigurationError(
                f"ENGINE={engine.name} does not compute on a GPU; unset ENABLE_CUDA or set ENGINE=auto"
            )
        if missing := engine.missing():
            raise ConfigurationError(f"ENGINE={engine.name}: {missing}")
        return engine
    reasons: list[str] = []
    for engine in ENGINES:
        if device in engine.devices:
            if (missing := engine.missing()) is None:
                if reasons:
                    _log.warning("ENGINE=auto uses %s, which is slower: %s", engine.title, "; ".join(reasons))
                return engine
            reasons.append(missing)
    raise ConfigurationError(f"no engine is there that computes a model: {'; '.join(reasons)}")


def next_engine(settings: Settings, engine: FileEngine, reason: str) -> ModuleEngine:
    """The engine that computes what `engine` cannot, for this `reason`, as it is; raises ConfigurationError."""
    if settings.engine != "auto":
        raise ConfigurationError(f"ENGINE={engine.name}: {reason}; set ENGINE=auto")
    for other in ENGINES:
        if isinstance(other, ModuleEngine) and "cpu" in other.devices:
            if missing := other.missing():
                raise ConfigurationError(f"{reason}; {other.title} could, but {missing}")
            check_precision(other, settings)
            _log.warning("ENGINE=auto uses %s, which is slower: %s", other.title, reason)
            return other
    raise ConfigurationError(reason)


def chosen_precision(settings: Settings) -> str:
    """The precision asked for, else the one that was baked (MODELS_DIR/precision), else float32."""
    if settings.precision is not None:
        return settings.precision
    baked = settings.models_dir / "precision"
    return baked.read_text(encoding="utf-8").strip() if baked.is_file() else "float32"


def check_precision(engine: FileEngine | ModuleEngine, settings: Settings) -> None:
    """Raises ConfigurationError if the device does not compute in the precision chosen."""
    precision = chosen_precision(settings)
    where = f"{engine.title} on {engine.device(settings)}"
    able = engine.precisions(settings)
    if precision not in able:
        raise ConfigurationError(f"PRECISION={precision}: {where} takes {', '.join(able)}; choose one of them")
