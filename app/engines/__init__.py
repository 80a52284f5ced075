"""What computes towers: OpenVINO on a CPU, torch on a GPU and where OpenVINO cannot."""

import logging

from app.engines.openvino import OpenVINO
from app.engines.torch import Torch
from app.errors import ConfigurationError
from app.settings import Settings

_log = logging.getLogger(__name__)


Engine = OpenVINO | Torch
"""A library that computes towers on a device; its file imports that library only when it is used.

OpenVINO opens files that it has made of torch modules once, without torch; torch opens the modules.
"""

OPENVINO, TORCH = OpenVINO(), Torch()
ENGINES: dict[str, Engine] = {"openvino": OPENVINO, "torch": TORCH}


def choose_engine(settings: Settings) -> Engine:
    """The engine of ENGINE and ENABLE_CUDA; raises ConfigurationError if they do not fit."""
    if settings.engine == "openvino" and settings.enable_cuda:
        raise ConfigurationError("ENGINE=openvino does not compute on a GPU; unset ENABLE_CUDA or set ENGINE=auto")
    automatic = "torch" if settings.enable_cuda else "openvino"
    return ENGINES[automatic if settings.engine == "auto" else settings.engine]


def torch_instead(settings: Settings, reason: str) -> None:
    """Log that torch computes a model for this `reason`; raises ConfigurationError if it may not, or cannot."""
    if settings.engine != "auto":
        raise ConfigurationError(f"ENGINE={settings.engine}: {reason}; set ENGINE=auto")
    check_precision(TORCH, settings)
    _log.warning("ENGINE=auto uses torch, which is slower: %s", reason)


def chosen_precision(settings: Settings) -> str:
    """The precision asked for, else the one that was baked (MODELS_DIR/precision), else float32."""
    if settings.precision is not None:
        return settings.precision
    baked = settings.models_dir / "precision"
    return baked.read_text(encoding="utf-8").strip() if baked.is_file() else "float32"


def check_precision(engine: Engine, settings: Settings) -> None:
    """Raises ConfigurationError if the device does not compute in the precision chosen."""
    precision, able = chosen_precision(settings), engine.precisions(settings)
    if precision not in able:
        raise ConfigurationError(
            f"PRECISION={precision}: {engine.title} on {engine.device(settings)} takes {', '.join(able)}; "
            "choose one of them"
        )
