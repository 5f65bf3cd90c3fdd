"""The structs of csrc/cuda/launchers.h for ctypes, and tensors as their views."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

_DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}


class View4(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("size", ctypes.c_int64 * 4),
        ("stride", ctypes.c_int64 * 4),
    ]


class View3(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("stride", ctypes.c_int64 * 3)]


class Labels(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("stride", ctypes.c_int64)]


class Theta(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("stride", ctypes.c_int64 * 3),
    ]


class DenseSimilarityArgs(ctypes.Structure):
    _fields_ = [
        ("p", View4),
        ("z", View4),
        ("groups", Labels),
        ("grad", View3),
        ("value", ctypes.c_void_p),
        ("loss", ctypes.c_void_p),
        ("dp", View4),
        ("dz", View4),
        ("scratch", ctypes.c_void_p),
    ]


class PairwiseDistanceArgs(ctypes.Structure):
    _fields_ = [
        ("h", View4),
        ("mask", View3),
        ("groups", Labels),
        ("squared", ctypes.c_bool),
        ("grad", View3),
        ("value", ctypes.c_void_p),
        ("loss", ctypes.c_void_p),
        ("dh", View4),
        ("scratch", ctypes.c_void_p),
    ]


class WarpAffineArgs(ctypes.Structure):
    _fields_ = [
        ("x", View4),
        ("theta", Theta),
        ("mode", ctypes.c_int32),
        ("padding", ctypes.c_int32),
        ("align_corners", ctypes.c_bool),
        ("out", View4),
    ]


class WarpAffineBackwardArgs(ctypes.Structure):
    _fields_ = [
        ("grad", View4),
        ("x", View4),
        ("theta", Theta),
        ("mode", ctypes.c_int32),
        ("padding", ctypes.c_int32),
        ("align_corners", ctypes.c_bool),
        ("dx", View4),
        ("dtheta", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
    ]


class MahalanobisArgs(ctypes.Structure):
    _fields_ = [
        ("x", View4),
        ("mean", View4),
        ("whitener", ctypes.c_void_p),
        ("whitener_dtype", ctypes.c_int32),
        ("whitener_stride", ctypes.c_int64 * 2),
        ("squared", ctypes.c_bool),
        ("grad", View3),
        ("value", ctypes.c_void_p),
        ("dx", View4),
        ("dmean", ctypes.c_void_p),
        ("dwhitener", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
    ]


class ScaleArgs(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("count", ctypes.c_int64),
        ("factor", ctypes.c_void_p),
    ]


ARGS = {
    "dense_similarity": DenseSimilarityArgs,
    "pairwise_distance": PairwiseDistanceArgs,
    "warp_affine": WarpAffineArgs,
    "warp_affine_backward": WarpAffineBackwardArgs,
    "mahalanobis": MahalanobisArgs,
}


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


def labels(tensor: Tensor | None) -> Labels:
    return Labels() if tensor is None else Labels(tensor.data_ptr(), tensor.stride(0))


def theta(tensor: Tensor) -> Theta:
    return Theta(tensor.data_ptr(), dtype_code(tensor), (ctypes.c_int64 * 3)(*tensor.stride()))
