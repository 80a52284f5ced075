"""The torch engine: CPU and CUDA."""

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from app.cgroup import usable_cpus
from app.errors import ConfigurationError, EngineBroken, OutOfMemory
from app.settings import Settings
from app.towers import InferenceSession, Inputs, Vectors

if TYPE_CHECKING:
    import torch


class Torch:
    """See Engine."""

    title = "torch"

    def missing(self) -> str | None:
        if importlib.util.find_spec("torch") is None:
            return "torch is not installed (pip install -r requirements.txt)"
        return None

    def device(self, settings: Settings) -> str:
        return str(_device(settings))

    def precisions(self, settings: Settings) -> list[str]:
        import torch

        if not settings.enable_cuda:
            return ["float32", "bfloat16"]
        return ["float32", *(["bfloat16"] if torch.cuda.is_bf16_supported() else []), "float16"]

    def open(self, tower: "torch.nn.Module", precision: str, settings: Settings) -> InferenceSession:
        import torch

        torch.set_num_threads(settings.threads or usable_cpus())
        return TorchSession(tower, _device(settings), getattr(torch, precision))


def _device(settings: Settings) -> "torch.device":
    import torch

    if not settings.enable_cuda:
        return torch.device("cpu")
    device = torch.device(settings.cuda_core)
    if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
        raise ConfigurationError(
            f"ENABLE_CUDA is set, but {settings.cuda_core} is not there ({torch.cuda.device_count()} GPUs "
            "visible); give the container a GPU (--gpus all) or unset ENABLE_CUDA"
        )
    return device


class TorchSession:
    """Runs a module that takes a batch's arrays by name and returns (items, width)."""

    def __init__(self, module: "torch.nn.Module", device: "torch.device", dtype: "torch.dtype") -> None:
        self._module = module.eval().to(device, dtype)
        self._device = device
        self._dtype = dtype

    def start(self, batch: Inputs) -> Callable[[], Vectors]:
        """See InferenceSession. On CUDA the kernels are queued and the copies do not block."""
        import torch

        try:
            with torch.inference_mode():
                vectors = self._module(**{name: self._to_device(array) for name, array in batch.items()})
        except RuntimeError as error:
            raise self._translated(error) from error

        def finish() -> Vectors:
            try:
                array: Vectors = vectors.float().cpu().numpy()
                return array
            except RuntimeError as error:
                raise self._translated(error) from error

        return finish

    def _to_device(self, array: np.ndarray) -> "torch.Tensor":
        import torch

        tensor = torch.from_numpy(array)
        if tensor.is_floating_point():
            tensor = tensor.to(self._dtype)
        if self._device.type == "cuda":
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor

    def _translated(self, error: RuntimeError) -> Exception:
        import torch

        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            return OutOfMemory("the batch does not fit into memory; send fewer or smaller items")
        if self._device.type == "cuda" and "CUDA error" in str(error):
            return EngineBroken(f"the GPU failed: {str(error).splitlines()[0]}")
        return error
