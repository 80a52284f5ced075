"""The OpenVINO engine: compiled towers on the CPU. Serving needs no torch."""

import ctypes
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from app.cgroup import usable_cpus
from app.errors import NotCompiled, OutOfMemory, first_line
from app.settings import Settings
from app.towers import InferenceSession, Inputs, Vectors

if TYPE_CHECKING:
    import torch

_HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "int8": "f32"}
_CAPABILITIES = {"float32": "FP32", "bfloat16": "BF16", "float16": "FP16", "int8": "INT8"}
_MADV_DONTNEED = 4
# OpenVINO keeps kernels for this many shapes an operation; more grow the memory and save no time.
_SHAPES_KEPT = 64


def library() -> Any:
    """The module openvino, without its usage reporting.

    At its import openvino reports, by way of the package openvino_telemetry: it looks up hosts, starts
    processes and writes to the user's home. Without that package it uses a stand-in that does nothing.
    """
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    return openvino


class OpenVINO:
    """See FileEngine."""

    name = "openvino"
    title = "OpenVINO"
    devices: tuple[str, ...] = ("cpu",)

    def missing(self) -> str | None:
        if importlib.util.find_spec("openvino") is None:
            return "OpenVINO is not installed (pip install openvino)"
        return None

    def device(self, settings: Settings) -> str:
        return "the CPU"

    def precisions(self, settings: Settings) -> list[str]:
        able = library().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return [name for name, capability in _CAPABILITIES.items() if capability in able]

    def version(self) -> str:
        version: str = library().get_version()
        return version

    def export(
        self, module: "torch.nn.Module", sample: Inputs, path: Path, *, any_length: bool, precision: str
    ) -> None:
        try:
            model = _convert(module, sample, any_length)
        except MemoryError:
            raise
        except Exception as error:
            if "alloc" in str(error):
                raise MemoryError(first_line(error)) from error
            raise NotCompiled(f"OpenVINO does not take it: {first_line(error)}") from error
        if precision == "int8":
            _quantize_weights(model)
        library().save_model(model, path.with_suffix(".xml"), compress_to_fp16=False)

    def open_file(self, path: Path, precision: str, settings: Settings) -> InferenceSession:
        return OpenVINOSession(path.with_suffix(".xml"), precision, settings.threads or usable_cpus())


class OpenVINOSession:
    """Runs a tower from its IR file."""

    def __init__(self, path: Path, precision: str, threads: int) -> None:
        core = library().Core()
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "CPU_RUNTIME_CACHE_CAPACITY": _SHAPES_KEPT,
        }
        if precision == "int8":
            options["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 32
        model = core.read_model(path)
        self._names = [port.get_any_name() for port in model.inputs]  # compiling adds others
        self._request = core.compile_model(model, "CPU", options).create_infer_request()
        self._file = path.with_suffix(".bin").resolve()
        self._has_run = False

    def start(self, batch: Inputs) -> Callable[[], Vectors]:
        """See InferenceSession. The CPU computes here: it has nothing to overlap with."""
        try:
            self._request.infer({name: batch[name] for name in self._names}, share_inputs=True)
        except MemoryError as error:
            raise OutOfMemory(_NO_MEMORY) from error
        except RuntimeError as error:
            if "alloc" in str(error):
                raise OutOfMemory(_NO_MEMORY) from error
            raise
        vectors: Vectors = np.array(self._request.get_output_tensor(0).data, np.float32)
        if not self._has_run:
            self._has_run = True
            self._give_back_file_pages()
        return lambda: vectors

    def _give_back_file_pages(self) -> None:
        """Drop the pages of the mapped weights: the first run repacked them, and they come back when touched."""
        maps = Path("/proc/self/maps")
        if not maps.exists():  # no Linux
            return
        libc = ctypes.CDLL(None, use_errno=True)
        for line in maps.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            if line.endswith(str(self._file)):
                start, end = (int(address, 16) for address in line.split()[0].split("-"))
                libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)


_NO_MEMORY = "the batch does not fit into memory; send fewer or smaller items"


def _convert(module: "torch.nn.Module", sample: Inputs, any_length: bool) -> Any:
    """A module as OpenVINO's model, float32."""
    import torch

    ov = library()
    names, tensors = list(sample), tuple(torch.from_numpy(array) for array in sample.values())

    class ByPosition(torch.nn.Module):
        """Export does not take a module whose inputs are only known by name."""

        def __init__(self) -> None:
            super().__init__()
            self.module = module.eval()

        def forward(self, *arrays: torch.Tensor) -> torch.Tensor:
            vectors: torch.Tensor = self.module(**dict(zip(names, arrays, strict=True)))
            return vectors

    # DYNAMIC: torch finds the bounds, and fails where an axis would be fixed.
    free = torch.export.Dim.DYNAMIC
    dynamic = tuple({0: free, 1: free} if any_length else {0: free} for _ in names)
    with torch.no_grad():
        exported = torch.export.export(ByPosition(), tensors, dynamic_shapes=(dynamic,), strict=False)
    model = ov.convert_model(exported)
    for port, name in zip(model.inputs, names, strict=True):
        port.get_tensor().set_names({name})
    shapes = {name: [-1, -1] if any_length else [-1, *array.shape[1:]] for name, array in sample.items()}
    model.reshape({name: ov.PartialShape(shape) for name, shape in shapes.items()})
    return model


def _quantize_weights(model: Any) -> None:
    """Replace the weights of the matrix products by int8 with one float32 scale an output channel.

    Symmetric: weight = int8 * scale, scale = largest magnitude / 127. OpenVINO then quantizes the
    activations as it goes, in groups of 32.
    """
    ops = library().opset13
    for node in model.get_ops():
        if node.get_type_name() != "MatMul":
            continue
        constant = node.input_value(1).get_node()
        if constant.get_type_name() != "Constant" or len(constant.get_output_shape(0)) != 2:
            continue
        weights = constant.data
        inputs_axis = 1 if node.get_attributes()["transpose_b"] else 0
        scales = np.abs(weights).max(axis=inputs_axis, keepdims=True) / 127
        scales[scales == 0] = 1
        quantized = ops.constant(np.round(weights / scales).astype(np.int8))
        product = ops.multiply(ops.convert(quantized, "f32"), ops.constant(scales.astype(np.float32)))
        node.input(1).replace_source_output(product.output(0))
