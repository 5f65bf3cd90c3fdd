"""The ops by way of the CUDA launchers on the CPU: what csrc/host does for a GPU, for ctypes.

Every function has the arguments of its op in ``fastalign/ops/schema.py``, without ``backend``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from cuda_on_cpu_support.builder import Library
from cuda_on_cpu_support.structs import (
    ARGS,
    DenseSimilarityArgs,
    MahalanobisArgs,
    PairwiseDistanceArgs,
    WarpAffineArgs,
    WarpAffineBackwardArgs,
    dtype_code,
    labels,
    theta,
    view3,
    view4,
)
from fastalign.ops.layout import empty_locations, empty_maps, empty_scalar, no_gradient

_MODES = ("bilinear", "nearest")
_PADDINGS = ("zeros", "border", "reflection")
_CANARY = 0xA5
_CANARIES = 64

_libc = ctypes.CDLL(None)
_libc.aligned_alloc.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
_libc.aligned_alloc.restype = ctypes.c_void_p
_libc.free.argtypes = [ctypes.c_void_p]


@contextmanager
def _scratch(size: int, exact: bool) -> Iterator[int | None]:
    """``size`` bytes aligned to 256 that hold NaN; writing past them is an error.

    A sanitizer needs the block to end where it says, otherwise canaries follow it.
    """
    if size == 0:
        yield None
        return
    beyond = 0 if exact else _CANARIES
    address = _libc.aligned_alloc(256, size + beyond)
    ctypes.memset(address, 0xFF, size)
    ctypes.memset(address + size, _CANARY, beyond)
    yield address
    intact = ctypes.string_at(address + size, beyond) == bytes([_CANARY]) * beyond
    _libc.free(address)
    assert intact, f"the kernels wrote past their {size} bytes of scratch memory"


class Kernels:
    """The ops of one library of launchers.

    Args:
        found: the library of each stem of an op.
        exact: whether a sanitizer watches the memory.
    """

    def __init__(self, found: dict[str, Library], exact: bool = False) -> None:
        self.found, self.exact = found, exact
        for stem, library in found.items():
            for name in ("warp_affine", "warp_affine_backward") if "warp" in stem else (stem,):
                size = getattr(library.handle, f"size_{name}")()
                assert size == ctypes.sizeof(ARGS[name]), f"structs.py: {name} differs from C++"

    def library(self, op: str) -> Library | None:
        """The library that serves an op, or None."""
        return self.found.get(op.removesuffix("_backward").removesuffix("_loss"))

    def _launch(self, name: str, args: ctypes.Structure) -> None:
        handle = self.library(name).handle
        launch = getattr(handle, f"launch_{name}")
        launch.restype = ctypes.c_char_p
        size = 0
        if name != "warp_affine":
            scratch = getattr(handle, f"scratch_{name}")
            scratch.restype = ctypes.c_int64
            size = scratch(ctypes.byref(args))
        with _scratch(size, self.exact) as address:
            if name != "warp_affine":
                args.scratch = address
            error = launch(ctypes.byref(args))
        assert error is None, error.decode()

    def dense_similarity(self, p: Tensor, z: Tensor, groups: Tensor | None) -> Tensor:
        value = empty_locations(p)
        if value.numel():
            args = DenseSimilarityArgs(p=view4(p), z=view4(z), groups=labels(groups))
            args.value = value.data_ptr()
            self._launch("dense_similarity", args)
        return value

    def _dense_gradients(
        self, args: DenseSimilarityArgs, p: Tensor, z: Tensor, need_p: bool, need_z: bool
    ) -> tuple[Tensor, Tensor]:
        dp = empty_maps(p) if need_p else no_gradient(p)
        dz = empty_maps(z) if need_z else no_gradient(z)
        if need_p:
            args.dp = view4(dp)
        if need_z:
            args.dz = view4(dz)
        if p.shape[0] * p.shape[2] * p.shape[3] and (need_p or need_z or args.loss):
            self._launch("dense_similarity", args)
        return dp, dz

    def dense_similarity_backward(
        self, grad: Tensor, p: Tensor, z: Tensor, groups: Tensor | None, need_p: bool, need_z: bool
    ) -> tuple[Tensor, Tensor]:
        args = DenseSimilarityArgs(p=view4(p), z=view4(z), groups=labels(groups), grad=view3(grad))
        return self._dense_gradients(args, p, z, need_p, need_z)

    def dense_similarity_loss(
        self, p: Tensor, z: Tensor, groups: Tensor | None, need_p: bool, need_z: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        loss = empty_scalar(p)
        args = DenseSimilarityArgs(p=view4(p), z=view4(z), groups=labels(groups))
        args.loss = loss.data_ptr()
        gradients = self._dense_gradients(args, p, z, need_p, need_z)
        if p.shape[0] * p.shape[2] * p.shape[3] == 0:
            loss.zero_()
        return loss, *gradients

    @staticmethod
    def _pairs(
        h: Tensor, mask: Tensor | None, groups: Tensor | None, squared: bool
    ) -> PairwiseDistanceArgs:
        args = PairwiseDistanceArgs(h=view4(h), groups=labels(groups), squared=squared)
        if mask is not None:
            args.mask = view3(mask)
        return args

    def pairwise_distance(
        self, h: Tensor, mask: Tensor | None, groups: Tensor | None, squared: bool
    ) -> Tensor:
        value = empty_locations(h)
        args = self._pairs(h, mask, groups, squared)
        args.value = value.data_ptr()
        if value.numel():
            self._launch("pairwise_distance", args)
        return value

    def pairwise_distance_backward(
        self,
        grad: Tensor,
        h: Tensor,
        mask: Tensor | None,
        groups: Tensor | None,
        squared: bool,
    ) -> Tensor:
        dh = empty_maps(h)
        args = self._pairs(h, mask, groups, squared)
        args.grad, args.dh = view3(grad), view4(dh)
        if grad.numel():
            self._launch("pairwise_distance", args)
        return dh

    def pairwise_distance_loss(
        self,
        h: Tensor,
        mask: Tensor | None,
        groups: Tensor | None,
        squared: bool,
        need_h: bool,
    ) -> tuple[Tensor, Tensor]:
        loss = empty_scalar(h)
        dh = empty_maps(h) if need_h else no_gradient(h)
        args = self._pairs(h, mask, groups, squared)
        args.loss = loss.data_ptr()
        if need_h:
            args.dh = view4(dh)
        if h.shape[0] * h.shape[2] * h.shape[3]:
            self._launch("pairwise_distance", args)
        else:
            loss.zero_()
        return loss, dh

    def warp_affine(
        self,
        x: Tensor,
        maps: Tensor,
        size: tuple[int, int],
        mode: str,
        padding_mode: str,
        align_corners: bool,
    ) -> Tensor:
        out = empty_maps(x, size)
        if out.numel():
            args = WarpAffineArgs(
                x=view4(x),
                theta=theta(maps),
                mode=_MODES.index(mode),
                padding=_PADDINGS.index(padding_mode),
                align_corners=align_corners,
                out=view4(out),
            )
            self._launch("warp_affine", args)
        return out

    def warp_affine_backward(
        self,
        grad: Tensor,
        x: Tensor,
        maps: Tensor,
        mode: str,
        padding_mode: str,
        align_corners: bool,
        need_x: bool,
        need_theta: bool,
        deterministic: bool,
    ) -> tuple[Tensor, Tensor]:
        dx = empty_maps(x) if need_x else no_gradient(x)
        dtheta = maps.new_empty(maps.shape) if need_theta else no_gradient(maps)
        args = WarpAffineBackwardArgs(
            grad=view4(grad),
            x=view4(x),
            theta=theta(maps),
            mode=_MODES.index(mode),
            padding=_PADDINGS.index(padding_mode),
            align_corners=align_corners,
        )
        if need_x:
            args.dx = view4(dx)
        if need_theta:
            args.dtheta = dtheta.data_ptr()
        if grad.numel() == 0:
            return dx.zero_(), dtheta.zero_()
        if need_x or need_theta:
            self._launch("warp_affine_backward", args)
        return dx, dtheta

    @staticmethod
    def _distances(x: Tensor, mean: Tensor, whitener: Tensor, squared: bool) -> MahalanobisArgs:
        return MahalanobisArgs(
            x=view4(x),
            mean=view4(mean),
            whitener=whitener.data_ptr(),
            whitener_dtype=dtype_code(whitener),
            whitener_stride=(ctypes.c_int64 * 2)(*whitener.stride()),
            squared=squared,
        )

    def mahalanobis(self, x: Tensor, mean: Tensor, whitener: Tensor, squared: bool) -> Tensor:
        value = empty_locations(x)
        args = self._distances(x, mean, whitener, squared)
        args.value = value.data_ptr()
        if value.numel():
            self._launch("mahalanobis", args)
        return value

    def mahalanobis_backward(
        self,
        grad: Tensor,
        x: Tensor,
        mean: Tensor,
        whitener: Tensor,
        squared: bool,
        need_x: bool,
        need_mean: bool,
        need_whitener: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        contiguous = torch.contiguous_format
        dx = empty_maps(x) if need_x else no_gradient(x)
        dmean = torch.empty_like(mean, memory_format=contiguous) if need_mean else no_gradient(mean)
        dwhitener = (
            torch.empty_like(whitener, memory_format=contiguous)
            if need_whitener
            else no_gradient(whitener)
        )
        if grad.numel() == 0:
            return dx, dmean.zero_(), dwhitener.zero_()
        args = self._distances(x, mean, whitener, squared)
        args.grad = view3(grad)
        if need_x:
            args.dx = view4(dx)
        if need_mean:
            args.dmean = dmean.data_ptr()
        if need_whitener:
            args.dwhitener = dwhitener.data_ptr()
        if need_x or need_mean or need_whitener:
            self._launch("mahalanobis", args)
        return dx, dmean, dwhitener
