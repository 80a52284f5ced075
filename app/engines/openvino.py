"""The OpenVINO engine: compiled towers on the CPU. Serving needs no torch."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from app.cgroup import usable_cpus
from app.errors import ConfigurationError
from app.settings import Settings
from app.towers import Inputs, Vectors

if TYPE_CHECKING:
    import torch

_HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "int8": "f32"}
_CAPABILITIES = {"float32": "FP32", "bfloat16": "BF16", "float16": "FP16", "int8": "INT8"}
_MADV_DONTNEED = 4
# OpenVINO keeps kernels for this many shapes an operation; more grow the memory and save no time.
_SHAPES_KEPT = 64


def check_precision(settings: Settings) -> None:
    """Raises ConfigurationError if this CPU does not compute in the precision asked for."""
    able = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    names = [name for name, capability in _CAPABILITIES.items() if capability in able]
    if settings.precision not in names:
        raise ConfigurationError(
            f"PRECISION={settings.precision}: OpenVINO on this CPU takes {', '.join(names)}; choose one of them"
        )


def quantize_weights(model: ov.Model) -> None:
    """Replace the weights of the matrix products by int8 with one float32 scale an output channel.

    Symmetric: weight = int8 * scale, scale = largest magnitude / 127. OpenVINO then quantizes the
    activations as it goes, in groups of 32.
    """
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


def convert(module: "torch.nn.Module", sample: Inputs, path: Path, any_length: bool) -> None:
    """Write a module as OpenVINO IR (`path` with .xml and .bin), float32, for batches of any size.

    `sample` is a batch of two items. With `any_length` its arrays are (items, tokens), and take any number
    of tokens.
    """
    import torch

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
    ov.save_model(model, path, compress_to_fp16=False)


class OpenVINOSession:
    """Runs a tower from its IR file, on as many threads as the CPU quota gives."""

    def __init__(self, path: Path, precision: str, threads: int) -> None:
        core = ov.Core()
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads or usable_cpus(),
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "CPU_RUNTIME_CACHE_CAPACITY": _SHAPES_KEPT,
        }
        model = core.read_model(path)
        names = [port.get_any_name() for port in model.inputs]  # compiling adds others
        if precision == "int8":
            quantize_weights(model)
            options["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 32
        self._compiled = core.compile_model(model, "CPU", options)
        self._request = self._compiled.create_infer_request()
        self._names = names
        self._file = path.with_suffix(".bin").resolve()

    def start(self, batch: Inputs) -> Callable[[], Vectors]:
        """See InferenceSession. The CPU computes here: it has nothing to overlap with."""
        self._request.infer({name: batch[name] for name in self._names}, share_inputs=True)
        vectors: Vectors = np.array(self._request.get_output_tensor(0).data, np.float32)
        return lambda: vectors

    def give_back_file_pages(self) -> None:
        """Drop the pages of the mapped weights: they have been repacked, and come back when touched."""
        libc = ctypes.CDLL(None, use_errno=True)
        for line in Path("/proc/self/maps").read_text().splitlines():
            if line.endswith(str(self._file)):
                start, end = (int(address, 16) for address in line.split()[0].split("-"))
                libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)
