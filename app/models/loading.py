"""From settings to a model that has run a first inference."""

import importlib.util
import logging

from app.contract import ConfigurationError
from app.models import Half, Model, Tower, check_widths, compiled, files
from app.models.families import Family, find_family
from app.settings import Settings

_log = logging.getLogger("uvicorn.error")


def load_model(settings: Settings) -> Model:
    """Load the model below `settings.models_dir` on the engine that the settings choose.

    Raises ConfigurationError that names what is wrong and says how to mend it.
    """
    if (folder := compiled.alone(settings.models_dir)) is not None:
        if settings.enable_cuda or settings.engine == "torch":
            raise ConfigurationError(
                f"{settings.models_dir} holds the compiled model alone, which OpenVINO computes on the CPU; bake the "
                "model for a GPU (build argument DEVICE=cuda), or unset ENABLE_CUDA and ENGINE"
            )
        return compiled.load_alone(folder, settings)
    family = find_family(settings.models_dir)
    files.check_model(settings.models_dir, family)
    if _chosen_engine(settings) == "openvino":
        try:
            return compiled.load(settings, family)
        except compiled.NotCompiled as error:
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


def _load_on_torch(settings: Settings, family: Family) -> Model:
    try:
        from app.engines import torch as torch_engine
    except ImportError as error:
        raise ConfigurationError(
            f"this model needs {error.name}, which is not installed; pip install -r requirements.txt"
        ) from error
    device = torch_engine.torch_device(settings)
    dtype = torch_engine.torch_dtype(settings, device)
    halves = family.load(settings.models_dir, files.trust_remote_code(settings))

    def tower(half: Half) -> tuple[Tower, int]:
        engine = torch_engine.TorchEngine(half.module, device, dtype)
        made = Tower(half.prepare, engine, half.padding)
        return made, made.embed([half.sample]).shape[1]

    text, text_width = tower(halves.text)
    image, image_width = tower(halves.image)
    return Model(text, image, check_widths(text_width, image_width), halves.meta, f"torch on {device}")
