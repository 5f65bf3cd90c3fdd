"""The structs of csrc/cuda/launchers.h for ctypes, read from it, and tensors as their views."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from cuda_on_cpu_support.builder import CSRC, launchers

_DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}


_TYPES: dict[str, type] = {
    "bool": ctypes.c_bool,
    "int64_t": ctypes.c_int64,
    "double": ctypes.c_double,
}
_TYPES |= dict.fromkeys(("DType", "Interpolation", "Padding"), ctypes.c_int32)


def _fields(body: str) -> Iterator[tuple[str, type]]:
    """Names and types of members such as ``View4 p, z;``, ``float* value;``, ``int64_t n[2];``."""
    for words, names in re.findall(r"^  ((?:const )?\w+\*?) ([\w, \[\]]+);", body, re.M):
        for name, count in re.findall(r"(\w+)(?:\[(\d+)\])?", names):
            kind = ctypes.c_void_p if words.endswith("*") else _TYPES[words]
            yield name, kind * int(count) if count else kind


def _structs(header: Path) -> None:
    """Makes the structs of a header known by their names."""
    text = re.sub("//.*", "", header.read_text(encoding="utf-8"))
    for name, base, body in re.findall(
        r"^struct (\w+)(?: : (\w+))? \{\n(.*?)^\};", text, re.M | re.S
    ):
        above = _TYPES[base] if base else ctypes.Structure
        _TYPES[name] = type(name, (above,), {"_fields_": list(_fields(body))})


_structs(CSRC / "cpu" / "view.h")
_structs(CSRC / "common" / "warp_options.h")
_structs(CSRC / "common" / "pose_inputs.h")
_structs(CSRC / "common" / "map_inputs.h")
_structs(CSRC / "common" / "gaussian_inputs.h")
_structs(CSRC / "cuda" / "launchers.h")
View4, View3, Labels, Theta = (_TYPES[name] for name in ("View4", "View3", "Labels", "Theta"))


def _plan_fields() -> dict[tuple[str, str, str], tuple[str, ...]]:
    """What can be forced of plans: kernel, backend and field in the order of their numbers, with
    their values, but for the fields that every CPU kernel has."""
    kernels = re.sub("//.*", "", (CSRC / "cpu" / "kernels.h").read_text(encoding="utf-8"))
    own = (CSRC / "common" / "plans.h").read_text(encoding="utf-8")
    names = re.findall(r"X\(level, (\w+), \w+\)", kernels)
    found = {(name, "cpu", field): () for name in names for field in ("isa", "threads")}
    for kernel, backend, field, values in re.findall(r'X\((\w+), (\w+), (\w+),\s+"([^"]*)"\)', own):
        found[kernel, backend, field] = tuple(values.split())
    return found


PLAN_FIELDS = _plan_fields()

# By the name of the launcher.
ARGS = {name: _TYPES[kind] for name, kind in launchers().items()}


def forced_plan(op: str, fields: Mapping[str, str]) -> ctypes.Array[ctypes.c_int32]:
    """ForcedPlans of csrc/common/plans.h with some fields of a CUDA kernel."""
    numbers = (ctypes.c_int32 * len(PLAN_FIELDS))()
    for field, value in fields.items():
        values = PLAN_FIELDS[op, "cuda", field]
        place = list(PLAN_FIELDS).index((op, "cuda", field))
        numbers[place] = int(value) if value.isdigit() else values.index(value) + 1
    return numbers


def dtype_code(tensor: Tensor) -> int:
    return _DTYPES[tensor.dtype]


def view4(tensor: Tensor) -> View4:
    size, stride = tensor.shape, tensor.stride()
    if tensor.dim() == 3:  # a mean: batch 1
        size, stride = (1, *size), (0, *stride)
    return View4(
        tensor.data_ptr(),
        dtype_code(tensor),
        (ctypes.c_int64 * 4)(*size),
        (ctypes.c_int64 * 4)(*stride),
    )


def view3(tensor: Tensor) -> View3:
    return View3(tensor.data_ptr(), (ctypes.c_int64 * 3)(*tensor.stride()))


def plane(tensor: Tensor) -> View3:
    """``[H,W]`` as the only one of its kind."""
    return View3(tensor.data_ptr(), (ctypes.c_int64 * 3)(0, *tensor.stride()))


def labels(tensor: Tensor | None) -> Labels:
    return Labels() if tensor is None else Labels(tensor.data_ptr(), tensor.stride(0))


def theta(tensor: Tensor) -> Theta:
    return Theta(tensor.data_ptr(), dtype_code(tensor), (ctypes.c_int64 * 3)(*tensor.stride()))
