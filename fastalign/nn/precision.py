"""What a network computes in: float32, or less where a device is faster with less."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fastalign.errors import ConfigError
from fastalign.nn.float32 import rounded_convolutions
from fastalign.nn.state import captured

Precision = Literal["float32", "tf32", "bfloat16", "float16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
_Network = TypeVar("_Network", bound=nn.Module)
_HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
# The first GPUs of NVIDIA that round to tf32 and multiply bfloat16.
_AMPERE = (8, 0)


def default_precision(device: torch.device) -> str:
    """What a network computes in on a device where nothing else was asked for."""
    on_nvidia = device.type == "cuda" and torch.version.hip is None
    return "tf32" if on_nvidia else "float32"


def missing_precision(precision: str, device: torch.device) -> str | None:
    """Why a device does not compute in a precision, None: it does."""
    if precision == "float32":
        return None
    if device.type == "cuda":
        if precision == "tf32" and torch.version.hip is not None:
            return "tf32 is of NVIDIA's GPUs"
        if precision != "float16" and torch.cuda.is_available():
            capability = torch.cuda.get_device_capability(device)
            if torch.version.hip is None and capability < _AMPERE:
                name = torch.cuda.get_device_name(device)
                return f"{name} is of compute capability {capability[0]}.{capability[1]}, not 8"
        return None
    if device.type == "cpu" and precision == "bfloat16":
        if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
            return None
        return "this processor has no instructions for bfloat16 (AVX512-BF16, AMX)"
    return f"{precision} is of GPUs" if device.type == "cpu" else f"not on {device.type}"


def check_precision(precision: str | None, device: torch.device | None) -> None:
    """Whether a device, None: some device, computes in a precision; None: in its default.

    Raises:
        ConfigError: there is no such precision, or not on this device.
    """
    if precision is None:
        return
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r}: use one of {', '.join(PRECISIONS)}.")
    if device is not None and (reason := missing_precision(precision, device)) is not None:
        raise ConfigError(
            f"precision {precision} on {device}: {reason}; use float32, or another device."
        )


class Running(nn.Module):
    """Part of a network as it runs, between float32 and float32.

    Arguments:
        network: takes maps ``[B,C,H,W]`` in ``dtype``, returns maps or a list of them.
        dtype: what it computes in.
        first: what is done before, to float32.
    """

    def __init__(
        self, network: nn.Module, dtype: torch.dtype, first: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.network, self.dtype, self.first = network, dtype, first

    def forward(self, x: Tensor) -> Any:
        """float32 maps of float32 maps."""
        found = self.network((x if self.first is None else self.first(x)).to(self.dtype))
        if isinstance(found, Tensor):
            return found.float()
        return [maps.float() for maps in found]

    if TYPE_CHECKING:  # nn.Module types calls as Any
        __call__ = forward


def dtype_of(precision: str) -> torch.dtype:
    """Of weights and maps of a network that computes in ``precision``."""
    return _HALVES.get(precision, torch.float32)


def copied(network: _Network, precision: str) -> _Network:
    """A network with weights in ``precision``, its own ones where they are float32."""
    dtype = dtype_of(precision)
    own = (*network.parameters(), *network.buffers()) if dtype == torch.float32 else ()
    # What is scored with gradients must not be of inference mode.
    with torch.inference_mode(False), torch.no_grad():
        return copy.deepcopy(network, {id(tensor): tensor for tensor in own}).to(dtype)


class _RoundedConvolutions(TorchFunctionMode):
    """Convolutions on a GPU that round their operands to tf32, those of this thread alone."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.conv2d:
            return _convolve(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    needs_grad = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    # Gradients are as exact as ever, and what torch pads by name it convolves as it is told to.
    if x.device.type != "cuda" or needs_grad or isinstance(padding, str):
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    cudnn = torch.backends.cudnn
    return torch._convolution(
        x,
        weight,
        bias,
        _pair(stride),
        _pair(padding),
        _pair(dilation),
        False,
        (0, 0),
        groups,
        cudnn.benchmark,
        cudnn.deterministic or torch.are_deterministic_algorithms_enabled(),
        cudnn.enabled,
        True,
    )


def _pair(value: int | Sequence[int]) -> Sequence[int]:
    return (value, value) if isinstance(value, int) else value


def rounding(precision: str) -> AbstractContextManager[object]:
    """Convolutions of this thread in ``precision``, where it is tf32; not in what is captured,
    which follows torch's own switches when it runs."""
    return _RoundedConvolutions() if precision == "tf32" and not captured() else nullcontext()


def compiled_rounding(precision: str) -> AbstractContextManager[object]:
    """As :func:`rounding`, for a call of what :func:`torch.compile` has made."""
    return rounded_convolutions() if precision == "tf32" else nullcontext()
