"""The OpenVINO engine: compiled towers on the CPU. Serving needs no torch."""

import ctypes
import re
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
# Arrays with fewer values stay float32; a table of embeddings is quantized from so many values on.
_MIN_STORED = 1024
_MIN_TABLE = 2**20
_STORED = "stored_"
_MARK = '<rt_info><attribute name="decompression" version="0" /></rt_info>'
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
    """Computes on the CPU."""

    title = "OpenVINO"

    def device(self, settings: Settings) -> str:
        """The device that the settings choose, in words; raises ConfigurationError if it is not there."""
        return "the CPU"

    def precisions(self, settings: Settings) -> list[str]:
        """The values of PRECISION in which this machine's device computes."""
        able = library().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return [name for name, capability in _CAPABILITIES.items() if capability in able]

    def version(self) -> str:
        """What is written by another version is made again."""
        return str(library().get_version())

    def export(
        self, module: "torch.nn.Module", sample: Inputs, path: Path, *, any_length: bool, precision: str
    ) -> None:
        """Write a float32 module to files that begin with `path`, for batches of any size, as stored in `precision`.

        `sample` is a batch of two items. With `any_length` the second axis of its arrays, tokens or tiles, is taken
        in any length. Raises NotCompiled if OpenVINO does not take this module; anything else that is raised says
        nothing of the module.
        """
        try:
            model = _convert(module, sample, any_length)
        except Exception as error:
            if _lacks_memory(error):
                raise MemoryError(first_line(error)) from error
            raise NotCompiled(f"OpenVINO does not take it: {first_line(error)}") from error
        if precision != "float32":
            _store_weights(model, precision)
        library().save_model(model, path.with_suffix(".xml"), compress_to_fp16=False)
        _mark_stored(path.with_suffix(".xml"))

    def open(self, tower: Path, precision: str, settings: Settings) -> InferenceSession:
        """What export() wrote to this path in this precision; see InferenceSession."""
        return OpenVINOSession(tower.with_suffix(".xml"), precision, settings.threads or usable_cpus())


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
        except Exception as error:
            if _lacks_memory(error):
                raise OutOfMemory("the batch does not fit into memory; send fewer or smaller items") from error
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


def _lacks_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "alloc" in str(error)


def _convert(module: "torch.nn.Module", sample: Inputs, any_length: bool) -> Any:
    """A module as OpenVINO's model, float32; see export()."""
    import torch

    tensors = tuple(torch.from_numpy(array) for array in sample.values())

    class ByPosition(torch.nn.Module):
        """Export does not take a module whose inputs are only known by name."""

        def __init__(self) -> None:
            super().__init__()
            self.module = module.eval()

        def forward(self, *arrays: torch.Tensor) -> Any:
            return self.module(**dict(zip(sample, arrays, strict=True)))

    # DYNAMIC: torch finds the bounds, and fails where an axis would be fixed.
    dynamic = torch.export.Dim.DYNAMIC
    axes = tuple({0: dynamic, 1: dynamic} if any_length else {0: dynamic} for _ in tensors)
    with torch.no_grad():
        program = torch.export.export(ByPosition(), tensors, dynamic_shapes=(axes,), strict=False)
    ov = library()
    model = ov.convert_model(program)
    for port, name in zip(model.inputs, sample, strict=True):
        port.get_tensor().set_names({name})
    free = 2 if any_length else 1
    shapes = {name: [-1] * free + [*array.shape[free:]] for name, array in sample.items()}
    model.reshape({name: ov.PartialShape(shape) for name, shape in shapes.items()})
    return model


def _store_weights(model: Any, precision: str) -> None:
    """Replace the float32 weights by what `precision` holds, and a conversion that OpenVINO does when it loads.

    int8: those of matrix products, and large tables of embeddings, as weight = int8 * scale with a float32 scale
    an output channel or row, scale = largest magnitude / 127; OpenVINO then quantizes the activations as it
    goes, in groups of 32. The rest of an int8 model is float16.
    """
    ops = library().opset13
    weights = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
    for number, constant in enumerate(weights):
        values = constant.data
        if values.dtype != np.float32 or values.size < _MIN_STORED:
            continue
        users = list(constant.output(0).get_target_inputs())
        axis = _scaled_axis(users[0], values) if precision == "int8" and len(users) == 1 else None
        if axis is None:
            small = _bfloat16(values) if precision == "bfloat16" else ops.constant(values.astype(np.float16))
            stored = ops.convert(small, "f32")
            stored.set_friendly_name(f"{_STORED}{number}")
        else:
            scales = np.abs(values).max(axis=axis, keepdims=True) / np.float32(127)
            scales[scales == 0] = 1
            small = ops.constant(np.round(values / scales).astype(np.int8))
            stored = ops.multiply(ops.convert(small, "f32"), ops.constant(scales))
        for user in users:
            user.replace_source_output(stored.output(0))


def _scaled_axis(user: Any, values: np.ndarray) -> int | None:
    """The axis over which weights share a scale; None where they are not kept as int8."""
    node, kind = user.get_node(), user.get_node().get_type_name()
    if values.ndim != 2:
        return None
    if kind == "MatMul" and user.get_index() == 1:
        return 1 if node.get_attributes()["transpose_b"] else 0
    return 1 if kind == "Gather" and values.size >= _MIN_TABLE else None


def _bfloat16(values: np.ndarray) -> Any:
    """Rounded to the nearest, ties to even; numpy has no such type."""
    ov = library()
    bits = values.view(np.uint32)
    tensor = ov.Tensor(ov.Type.bf16, ov.Shape(values.shape))
    tensor.data.view(np.uint16)[...] = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return ov.op.Constant(tensor)


def _mark_stored(path: Path) -> None:
    """Tell OpenVINO to keep stored weights as they are: without this mark it would widen them when it loads."""
    xml = path.read_text(encoding="utf-8")
    layer = rf'(<layer id="\d+" name="{_STORED}\d+" type="Convert"[^>]*>\s*<data [^>]*/>)'
    path.write_text(re.sub(layer, rf"\1{_MARK}", xml), encoding="utf-8")
