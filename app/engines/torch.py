"""The torch engine: CPU and CUDA."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from app.cgroup import usable_cpus
from app.errors import ConfigurationError, EngineBroken, OutOfMemory
from app.settings import Settings
from app.towers import InferenceSession, Inputs, Vectors

if TYPE_CHECKING:
    import torch


class Torch:
    """Computes on a GPU, or on the CPU. Its methods are those of OpenVINO."""

    title = "torch"

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
        session = CudaSession if settings.enable_cuda else TorchSession
        return session(tower, _device(settings), getattr(torch, precision))


def _device(settings: Settings) -> "torch.device":
    import torch

    if not settings.enable_cuda:
        return torch.device("cpu")
    if settings.cuda_core == "all" or "," in settings.cuda_core:
        raise ConfigurationError(
            f"CUDA_CORE={settings.cuda_core}: one process computes on one GPU; start `python -m app` to use several"
        )
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
        """See InferenceSession."""
        import torch

        try:
            with torch.inference_mode():
                return self._start({name: torch.from_numpy(array) for name, array in batch.items()})
        except RuntimeError as error:
            raise self._translated(error) from error

    def _start(self, batch: "dict[str, torch.Tensor]") -> Callable[[], Vectors]:
        vectors: Vectors = self._compute(batch).numpy()
        return lambda: vectors

    def _compute(self, batch: "dict[str, torch.Tensor]") -> "torch.Tensor":
        """float32 (items, width) on the device, from tensors on it."""
        inputs = {name: each.to(self._dtype) if each.is_floating_point() else each for name, each in batch.items()}
        vectors: torch.Tensor = self._module(**inputs)
        return vectors.float()

    def _translated(self, error: RuntimeError) -> Exception:
        import torch

        said = str(error)
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in said or "out of memory" in said:
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            return OutOfMemory("the batch does not fit into memory; send fewer or smaller items")
        if self._device.type == "cuda" and "CUDA error" in said:
            return EngineBroken(f"the GPU failed: {said.splitlines()[0]}")
        return error


class CudaSession(TorchSession):
    """The same on a GPU, which gets a batch while it computes another: `start` waits for nothing.

    Copies to the GPU have a stream of their own, so that those of a batch run beside the kernels of the one before.
    """

    def __init__(self, module: "torch.nn.Module", device: "torch.device", dtype: "torch.dtype") -> None:
        import torch

        super().__init__(module, device, dtype)
        self._copies, self._kernels = (torch.cuda.Stream(device) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize(device)  # these streams do not wait for the weights, which came by another

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """An array in pinned memory, from which the GPU copies by itself.

        torch gives the same memory out again once nobody holds the array and the copies from it have ended.
        """
        import torch

        with torch.cuda.device(self._device):
            memory = torch.empty(math.prod(shape) * dtype.itemsize, dtype=torch.uint8, pin_memory=True)
        return np.ndarray(shape, dtype, memory.numpy().data)

    def _start(self, batch: "dict[str, torch.Tensor]") -> Callable[[], Vectors]:
        import torch

        with torch.cuda.stream(self._copies):
            # What is pinned already stays where it is.
            inputs = {name: each.pin_memory().to(self._device, non_blocking=True) for name, each in batch.items()}
        self._kernels.wait_stream(self._copies)
        with torch.cuda.stream(self._kernels):
            for each in inputs.values():
                each.record_stream(self._kernels)  # else the next copy could be given its memory
            vectors = self._compute(inputs)
            rows = torch.empty(vectors.shape, dtype=torch.float32, pin_memory=True)
            rows.copy_(vectors, non_blocking=True)
            # Who waits for it takes no CPU.
            done = self._kernels.record_event(torch.cuda.Event(blocking=True))  # type: ignore[no-untyped-call]

        def finish() -> Vectors:
            try:
                done.synchronize()
            except RuntimeError as error:
                raise self._translated(error) from error
            array: Vectors = rows.numpy().copy()  # rows may be kept, and pinned memory is for the next batch
            return array

        return finish
