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
from cuda_on_cpu_support.memory import Block, guarded
from cuda_on_cpu_support.structs import (
    ARGS,
    dtype_code,
    forced_plan,
    labels,
    plane,
    theta,
    view3,
    view4,
)
from fastalign.ops.layout import empty_locations, empty_maps, empty_scalar, no_gradient

_MODES = ("bilinear", "nearest")
_PADDINGS = ("zeros", "border", "reflection")
_libc = ctypes.CDLL(None)
_libc.posix_memalign.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
_libc.free.argtypes = [ctypes.c_void_p]

_SCRATCH_ALIGNMENT = 256


@contextmanager
def _allocated(size: int) -> Iterator[int]:
    """``size`` bytes that hold NaN, from the allocator that a sanitizer watches."""
    address = ctypes.c_void_p()
    if _libc.posix_memalign(ctypes.byref(address), _SCRATCH_ALIGNMENT, size) != 0:
        raise MemoryError
    ctypes.memset(address, 0xFF, size)
    yield address.value
    _libc.free(address)


def plan_of(name: str, args: ctypes.Structure) -> str:
    """The kernel whose plan a launcher takes: one of mahalanobis serves two."""
    backward = name == "mahalanobis" and args.grad.data
    return f"{name}_backward" if backward else name


class KernelError(AssertionError):
    """What the harness, or a guard around memory, found."""


class Kernels:
    """The ops of one library of launchers.

    Args:
        found: the library of each stem of an op.
        watched: whether a sanitizer watches the memory. Otherwise inputs, results and scratch
            memory are moved between unmapped pages.
    """

    def __init__(self, found: dict[str, Library], watched: bool = False) -> None:
        self.found, self.watched = found, watched
        # By the launcher: what is forced of its plan.
        self.forced: dict[str, dict[str, str]] = {}
        self._blocks: list[Block] = []
        for stem, library in found.items():
            for name in (name for name in ARGS if name == stem or name.startswith(f"{stem}_")):
                size = getattr(library.handle, f"size_{name}")()
                assert size == ctypes.sizeof(ARGS[name]), f"structs.py: {name} differs from C++"

    def library(self, op: str) -> Library | None:
        """The library that serves an op, or None."""
        return self.found.get(op.removesuffix("_backward").removesuffix("_loss"))

    def _inputs(self, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        """The tensors in guarded memory, strides kept. Begins a call."""
        self._blocks.clear()
        return tuple(None if t is None else self._moved(t, frozen=True) for t in tensors)

    def _moved(self, tensor: Tensor, frozen: bool) -> Tensor:
        if self.watched:
            return tensor
        placed, block = guarded(tensor)
        self._blocks.append(block)
        # Where elements overlap (strides of 0), copying their one place is enough.
        overlapping = [s == 0 and n > 1 for n, s in zip(tensor.shape, tensor.stride(), strict=True)]
        if any(overlapping):
            once = tuple(slice(0, 1) if same else slice(None) for same in overlapping)
            placed[once].copy_(tensor[once])
        else:
            placed.copy_(tensor)
        if frozen:
            block.freeze()
        return placed

    def _result(self, tensor: Tensor) -> Tensor:
        """An uninitialised result in guarded memory."""
        return tensor if self.watched else self._moved(tensor.fill_(float("nan")), frozen=False)

    def _launch(self, name: str, args: ctypes.Structure) -> None:
        handle = self.library(name).handle
        numbers = forced_plan(plan_of(name, args), self.forced.get(plan_of(name, args), {}))
        if any(numbers):
            args.forced = ctypes.addressof(numbers)
        launch = getattr(handle, f"launch_{name}")
        launch.restype = ctypes.c_char_p
        size, scratch = 0, getattr(handle, f"scratch_{name}", None)
        if scratch is not None:
            scratch.restype = ctypes.c_int64
            size = scratch(ctypes.byref(args))
        if self.watched and size > 0:
            with _allocated(size) as args.scratch:
                error = launch(ctypes.byref(args))
        else:
            if size > 0:
                self._blocks.append(Block(size, _SCRATCH_ALIGNMENT))
                args.scratch = self._blocks[-1].address
            error = launch(ctypes.byref(args))
        if error is not None:
            raise KernelError(error.decode())
        if not all(block.is_intact() for block in self._blocks):
            raise KernelError(f"{name}: something was written into an input, or beside a tensor")

    def dense_similarity(self, p: Tensor, z: Tensor, groups: Tensor | None) -> Tensor:
        p, z, groups = self._inputs(p, z, groups)
        value = self._result(empty_locations(p))
        if value.numel():
            args = ARGS["dense_similarity"](p=view4(p), z=view4(z), groups=labels(groups))
            args.value = value.data_ptr()
            self._launch("dense_similarity", args)
        return value

    def _dense_gradients(
        self, args: ctypes.Structure, p: Tensor, z: Tensor, need_p: bool, need_z: bool
    ) -> tuple[Tensor, Tensor]:
        dp = self._result(empty_maps(p)) if need_p else no_gradient(p)
        dz = self._result(empty_maps(z)) if need_z else no_gradient(z)
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
        grad, p, z, groups = self._inputs(grad, p, z, groups)
        args = ARGS["dense_similarity"](
            p=view4(p), z=view4(z), groups=labels(groups), grad=view3(grad)
        )
        return self._dense_gradients(args, p, z, need_p, need_z)

    def dense_similarity_loss(
        self, p: Tensor, z: Tensor, groups: Tensor | None, need_p: bool, need_z: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        p, z, groups = self._inputs(p, z, groups)
        loss = self._result(empty_scalar(p))
        args = ARGS["dense_similarity"](p=view4(p), z=view4(z), groups=labels(groups))
        args.loss = loss.data_ptr()
        gradients = self._dense_gradients(args, p, z, need_p, need_z)
        if p.shape[0] * p.shape[2] * p.shape[3] == 0:
            loss.zero_()
        return loss, *gradients

    @staticmethod
    def _pairs(
        h: Tensor, mask: Tensor | None, groups: Tensor | None, squared: bool
    ) -> ctypes.Structure:
        args = ARGS["pairwise_distance"](h=view4(h), groups=labels(groups), squared=squared)
        if mask is not None:
            args.mask = view3(mask)
        return args

    def pairwise_distance(
        self, h: Tensor, mask: Tensor | None, groups: Tensor | None, squared: bool
    ) -> Tensor:
        h, mask, groups = self._inputs(h, mask, groups)
        value = self._result(empty_locations(h))
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
        grad, h, mask, groups = self._inputs(grad, h, mask, groups)
        dh = self._result(empty_maps(h))
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
        h, mask, groups = self._inputs(h, mask, groups)
        loss = self._result(empty_scalar(h))
        dh = self._result(empty_maps(h)) if need_h else no_gradient(h)
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
        x, maps = self._inputs(x, maps)
        out = self._result(empty_maps(x, size))
        if out.numel():
            args = ARGS["warp_affine"](
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
        grad, x, maps = self._inputs(grad, x, maps)
        dx = self._result(empty_maps(x)) if need_x else no_gradient(x)
        dtheta = self._result(maps.new_empty(maps.shape)) if need_theta else no_gradient(maps)
        args = ARGS["warp_affine_backward"](
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
    def _distances(x: Tensor, mean: Tensor, whitener: Tensor, squared: bool) -> ctypes.Structure:
        return ARGS["mahalanobis"](
            x=view4(x),
            mean=view4(mean),
            whitener=whitener.data_ptr(),
            whitener_dtype=dtype_code(whitener),
            whitener_stride=(ctypes.c_int64 * 3)(*whitener.stride()),
            low_rank=whitener.dim() == 3,
            rank=whitener.shape[1] if whitener.dim() == 3 else 0,
            squared=squared,
        )

    def mahalanobis(
        self,
        x: Tensor,
        mean: Tensor,
        whitener: Tensor,
        coarse: Tensor | None,
        scale: Tensor | None,
        squared: bool,
    ) -> Tensor:
        x, mean, whitener, coarse, scale = self._inputs(x, mean, whitener, coarse, scale)
        value = self._result(empty_locations(x))
        args = self._distances(x, mean, whitener, squared)
        if coarse is not None:
            args.coarse = view4(coarse)
        if scale is not None:
            args.scale = plane(scale)
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
        grad, x, mean, whitener = self._inputs(grad, x, mean, whitener)
        dx = self._result(empty_maps(x)) if need_x else no_gradient(x)
        dmean = self._result(mean.new_empty(mean.shape)) if need_mean else no_gradient(mean)
        dwhitener = (
            self._result(whitener.new_empty(whitener.shape))
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

    def refine_pose(
        self,
        edges: Tensor,
        maps: Tensor,
        template: Tensor,
        weight: Tensor,
        generators: Tensor,
        iterations: int,
    ) -> tuple[Tensor, Tensor]:
        edges, maps, template, weight, generators = self._inputs(
            edges, maps, template, weight, generators.contiguous()
        )
        refined = self._result(maps.new_empty(maps.shape))
        correlation = self._result(maps.new_empty(maps.shape[:2]))
        if correlation.numel():
            args = ARGS["refine_pose"](
                edges=view4(edges),
                theta=maps.data_ptr(),
                theta_stride=(ctypes.c_int64 * 4)(*maps.stride()),
                candidates=maps.shape[1],
                template_=plane(template),
                weight=plane(weight),
                generators=generators.data_ptr(),
                parameters=len(generators),
                iterations=iterations,
                refined=refined.data_ptr(),
                correlation=correlation.data_ptr(),
            )
            self._launch("refine_pose", args)
        return refined, correlation

    def anomaly_map(
        self,
        distance: Tensor,
        maps: Tensor,
        evidence: Tensor,
        taps: Tensor,
        size: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        distance, maps, evidence, taps = self._inputs(distance, maps, evidence, taps.contiguous())
        height, width = size
        value = self._result(maps.new_empty((len(distance), height, width)))
        share = self._result(torch.empty_like(value))
        if value.numel():
            args = ARGS["anomaly_map"](
                distance=view4(distance),
                evidence=view3(evidence),
                is_mask=evidence.dtype == torch.bool,
                taps=taps.data_ptr(),
                count=len(taps),
                height=height,
                width=width,
                theta=theta(maps),
                value=value.data_ptr(),
                share=share.data_ptr(),
            )
            self._launch("anomaly_map", args)
        return value, share
