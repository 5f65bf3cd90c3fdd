"""What the kernels rely on of a chip's arithmetic, and what no interpreter shows.

Triton's interpreter and the simulated GPU of the tests compute on the CPU: there a fused
multiply-add may round twice, and NaN or a value out of range becomes another integer than on a
GPU. Here each such function runs on the device, on values chosen to tell, and is compared with
exact results.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpucheck.records import Skip

SOURCE = Path(__file__).with_name("arithmetic.cu")
Triple = tuple[Tensor, Tensor, Tensor]
Compute = Callable[[str, Triple, torch.dtype], Tensor]
_SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 3.0e5)
_SPECIAL += (torch.inf, -torch.inf, torch.nan)


def _triple(a: Tensor, b: Tensor | None = None, c: Tensor | None = None) -> Triple:
    return a, a if b is None else b, a if c is None else c


def _random(dtype: torch.dtype, number: int = 4096) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(number, generator=generator, dtype=torch.float64)
    return (values * 2.0 ** torch.randint(-20, 20, (number,), generator=generator)).to(dtype)


def fma_inputs(dtype: torch.dtype) -> Triple:
    """Products whose rounding error is all that is left: a b - round(a b)."""
    a, b = _random(dtype), _random(dtype).flip(0)
    return a, b, -(a * b)


def once_rounded(inputs: Triple) -> Tensor:
    """a b + c, rounded once: exact as fractions."""
    a, b, c = (value.double().tolist() for value in inputs)
    exact = [Fraction(x) * Fraction(y) + Fraction(z) for x, y, z in zip(a, b, c, strict=True)]
    # The exact remainder of a product has no more digits than its factors: nothing is rounded.
    return torch.tensor([float(value) for value in exact], dtype=torch.float64).to(inputs[0].dtype)


def fma_rounds_once(compute: Compute, name: str, device: str) -> None:
    dtype = getattr(torch, name.removeprefix("fma_"))
    inputs = fma_inputs(dtype)
    _equal(_on(compute, name, inputs, dtype, device), once_rounded(inputs), inputs)


def rounds_to_even(compute: Compute, name: str, device: str) -> None:
    """Float32 to 16 bits: nearest, ties to even, subnormal numbers, overflow, NaN."""
    dtype = torch.bfloat16 if name == "to_bfloat16" else torch.float16
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype).float()
    every = every[every.isfinite()]
    # The values themselves, those half way to the next one, and those beside these.
    half_way = (every[:-1] + every[1:]) / 2
    near = torch.cat([half_way.nextafter(every[1:]), half_way.nextafter(every[:-1])])
    values = torch.cat([every, half_way, near, torch.tensor(_SPECIAL)])
    found = _on(compute, name, _triple(values), dtype, device)
    _equal(found.float(), values.to(dtype).float(), _triple(values))


def widens_exactly(compute: Compute, name: str, device: str) -> None:
    """Every 16-bit pattern of a half, subnormal ones included, to float32."""
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    found = _on(compute, name, _triple(bits.view(torch.float16)), torch.float32, device)
    _equal(found, bits.view(torch.float16).float(), _triple(bits.view(torch.float16)))


def within(compute: Compute, name: str, device: str, exact: Any, inputs: Triple, ulp: float) -> str:
    """At most so many units in the last place of float32 away from the exact value."""
    found = _on(compute, name, inputs, torch.float32, device).double()
    wanted = exact(*(value.double() for value in inputs))
    apart = float(((found - wanted).abs() / wanted.abs() * 2.0**23).max())
    if not apart <= ulp:
        raise AssertionError(f"{apart:.3g} units in the last place away, {ulp:g} are relied on")
    return f"{apart:.2f} units in the last place"


def nan_wins(compute: Compute, name: str, device: str) -> None:
    special = torch.tensor(_SPECIAL)
    a, b = special.repeat(len(special)), special.repeat_interleave(len(special))
    found = _on(compute, name, _triple(a, b), torch.float32, device)
    _equal(found, torch.maximum(a, b), _triple(a, b))


def floors(compute: Compute, name: str, device: str) -> None:
    values = torch.tensor([*_SPECIAL, 2.0**52 - 0.5, -(2.0**52) + 0.5, 1e300, -5e-324]).double()
    found = _on(compute, name, _triple(values), torch.float64, device)
    _equal(found, values.floor(), _triple(values))


def truncates(compute: Compute, name: str, device: str) -> str:
    """Exact in range. Beyond it, and for NaN, some integer: which one is only reported."""
    dtype, top = (torch.int32, 2.0**31) if name == "to_int32" else (torch.int64, 2.0**63)
    values = [0.0, -0.0, 0.9, -0.9, 1.0, -1.5, 7e5, top / 2, -top, top - top / 2**20]
    values = torch.tensor(values, dtype=torch.float64)
    found = _on(compute, name, _triple(values), dtype, device)
    _equal(found, values.trunc().to(dtype), _triple(values))
    outside = torch.tensor([torch.nan, torch.inf, -torch.inf, 2 * top, -2 * top]).double()
    became = _on(compute, name, _triple(outside), dtype, device).tolist()
    return ", ".join(
        f"{value:g} to {number}" for value, number in zip(outside.tolist(), became, strict=True)
    )


def stays_inside(padding: int, align: bool, nearest: bool, device: str) -> None:
    """Whatever the position, NaN included, the pixel that is read lies in the image, or is one of
    those next to it that the kernels mask."""
    from gpucheck import arithmetic_triton

    for size in (1, 2, 37, 2**24):
        huge = [size - 1.0, size - 0.5, size + 0.5, 2.0**31, 2.0**53, 1e300, 1.7e308]
        positions = torch.tensor([*_SPECIAL, *huge, *(-value for value in huge)]).double()
        found = arithmetic_triton.pixels(positions.to(device), size, padding, align, nearest).cpu()
        low, high = (0, size - 1) if padding else (-2, size + 1)
        outside = (found < low) | (found > high)
        if bool(outside.any()):
            at = int(outside.int().argmax())
            raise AssertionError(
                f"position {float(positions[at])} of {size} pixels became pixel {int(found[at])}"
            )


@cache
def _library() -> ctypes.CDLL:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise Skip("nvcc is missing")
    major, minor = torch.cuda.get_device_capability()
    folder = tempfile.mkdtemp(prefix="fastalign-arithmetic-")
    target = Path(folder) / "arithmetic.so"
    subprocess.run(build_command(nvcc, f"sm_{major}{minor}", target), check=True)
    library = ctypes.CDLL(str(target))
    library.arithmetic.restype = ctypes.c_char_p
    library.arithmetic.argtypes = [ctypes.c_char_p, *[ctypes.c_void_p] * 4, ctypes.c_int64]
    library.arithmetic.argtypes += [ctypes.c_void_p]
    return library


def build_command(nvcc: str, architecture: str, target: Path) -> list[str]:
    """The flags of the kernels that change device code."""
    flags = ["-std=c++20", "-O3", "--expt-relaxed-constexpr", "-shared", "-Xcompiler=-fPIC"]
    return [nvcc, *flags, f"-arch={architecture}", str(SOURCE), "-o", str(target)]


def compute_cuda(name: str, inputs: Triple, dtype: torch.dtype) -> Tensor:
    """As :func:`gpucheck.arithmetic_triton.compute`, by the functions that CUDA kernels use."""
    out = inputs[0].new_empty(inputs[0].shape, dtype=dtype)
    pointers = [value.data_ptr() for value in (*inputs, out)]
    stream = torch.cuda.current_stream().cuda_stream
    error = _library().arithmetic(name.encode(), *pointers, out.numel(), stream)
    if error:
        raise AssertionError(error.decode())
    return out


def _on(compute: Compute, name: str, inputs: Triple, dtype: torch.dtype, device: str) -> Tensor:
    there = tuple(value.contiguous().to(device) for value in inputs)
    return compute(name, there, dtype).cpu()


def _equal(found: Tensor, wanted: Tensor, inputs: Triple) -> None:
    wrong = ~((found == wanted) | (found.isnan() & wanted.isnan()))
    if bool(wrong.any()):
        at = int(wrong.int().argmax())
        given = ", ".join(f"{float(value[at])!r}" for value in inputs)
        raise AssertionError(
            f"{int(wrong.sum())} of {len(found)} values are wrong; the first, of {given}: "
            f"{found[at].item()!r}, not {wanted[at].item()!r}"
        )


def checks(backend: str, device: str) -> dict[str, Callable[[], Any]]:
    """By name; what a check returns is for the record."""
    if device != "cuda":
        return {}
    if backend == "triton":
        from gpucheck.arithmetic_triton import compute
    else:
        compute = compute_cuda
    return {f"arithmetic: {name}": check for name, check in of(compute, backend, device).items()}


def of(compute: Compute, backend: str, device: str) -> dict[str, Callable[[], Any]]:
    """The checks of one backend's functions, wherever they run."""
    positive = _random(torch.float32).abs().clamp_min(2.0**-60)
    result: dict[str, Callable[[], Any]] = {}
    for name in ("fma_float32", "fma_float64"):
        result[f"{name} rounds once"] = partial(fma_rounds_once, compute, name, device)
    for name in ("to_bfloat16", "to_half"):
        result[f"{name} rounds to even"] = partial(rounds_to_even, compute, name, device)
    result["from_half is exact"] = partial(widens_exactly, compute, "from_half", device)
    result["the larger, or NaN"] = partial(nan_wins, compute, "larger_or_nan", device)
    result["float64 to int32"] = partial(truncates, compute, "to_int32", device)
    if backend == "triton":
        roots = lambda a, b, c: a.rsqrt()  # noqa: E731
        counts = torch.arange(1, 2**16 + 1, dtype=torch.float32)
        ones = torch.ones_like(counts)
        result["rsqrt"] = partial(within, compute, "rsqrt", device, roots, _triple(positive), 2.0)
        # A third of it, squared twice by Newton's steps, is exact in float64.
        result["1 / a count"] = partial(
            within, compute, "divide", device, lambda a, b, c: a / b, (ones, counts, ones), 2.0
        )
        result["sqrt_rn"] = partial(
            within, compute, "sqrt_rn", device, lambda a, b, c: a.sqrt(), _triple(positive), 1.0
        )
        for padding, word in enumerate(("zeros", "border", "reflection")):
            for nearest in (False, True):
                for align in (False, True):
                    name = f"pixels of any position, {word}, nearest {nearest}, align {align}"
                    result[name] = partial(stays_inside, padding, align, nearest, device)
        return result
    result["float64 to int64"] = partial(truncates, compute, "to_int64", device)
    result["floor"] = partial(floors, compute, "floor", device)
    result["inverse_length"] = partial(
        within, compute, "inverse_length", device,
        lambda a, b, c: a.rsqrt(), _triple(positive.clamp(2.0**-60, 2.0**60)), 1.5,
    )  # fmt: skip
    return result
