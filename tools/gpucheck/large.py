"""Tensors of more than 2^31 elements: 32-bit offsets would wrap around or read elsewhere.

The ops work location by location, so that a few locations at both ends, cut out and given to the
float64 reference, say what the whole has to hold there. Runs where the device's memory is enough.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastalign import ops
from fastalign.ops import reference
from gpucheck.records import Skip

BEYOND = 2**31
EDGE = 5
# Values come in float32, gradients are rounded to bfloat16.
VALUE, GRADIENT = {"rtol": 1e-4, "atol": 1e-4}, {"rtol": 1e-2, "atol": 1e-3}


def _ends(x: Tensor) -> Tensor:
    """First and last columns of the first and last rows: the offsets at both ends."""
    rows = torch.cat([x[..., :1, :], x[..., -1:, :]], -2)
    return torch.cat([rows[..., :EDGE], rows[..., -EDGE:]], -1)


def _need(backend: str, device: str, op: str, tensors: int) -> None:
    """Memory for so many bfloat16 tensors and some more, and the backend itself."""
    if device != "cuda":
        raise Skip("needs a CUDA device")
    free = torch.cuda.mem_get_info()[0]
    wanted = 2 * BEYOND * tensors + (2 << 30)
    if free < wanted:
        raise Skip(f"needs {wanted / 1e9:.0f} GB of device memory, {free / 1e9:.0f} GB are free")


def _run(op: str, backend: str, *arguments: Any) -> Any:
    tensors = [value for value in arguments if isinstance(value, Tensor)]
    reason = ops.available_backends(op, *tensors)[backend]
    if reason is not None:
        raise Skip(reason)
    return getattr(torch.ops.fastalign, op)(*arguments, backend=backend)


def _features(batch: int, channels: int, height: int, width: int, last: bool = False) -> Tensor:
    assert batch * channels * height * width > BEYOND
    layout = torch.channels_last if last else torch.contiguous_format
    x = torch.empty(
        batch,
        channels,
        height,
        width,
        dtype=torch.bfloat16,
        device="cuda",
        memory_format=layout,
    )
    return x.normal_()


def _close(found: Tensor, wanted: Tensor, what: str) -> None:
    bound = GRADIENT if found.dtype == torch.bfloat16 else VALUE
    found = _ends(found).double()
    torch.testing.assert_close(found, wanted, **bound, msg=lambda text: f"{what}: {text}")


def similarity(backend: str, device: str, last: bool = False) -> None:
    _need(backend, device, "dense_similarity", 4)
    p, z = (_features(2, 260, 2048, 2017, last) for _ in range(2))
    narrow = [_ends(value).double() for value in (p, z)]
    out = _run("dense_similarity", backend, p, z, None)
    _close(out, reference.kernel("dense_similarity")(*narrow, None), "value")
    grad = torch.full_like(out, 16.0)  # about |p|: a gradient near 1
    to_p, _ = _run("dense_similarity_backward", backend, grad, p, z, None, True, False)
    wanted, _ = reference.kernel("dense_similarity_backward")(
        _ends(grad).double(), *narrow, None, True, False
    )
    _close(to_p, wanted, "gradient")


def distance(backend: str, device: str) -> None:
    _need(backend, device, "pairwise_distance", 3)
    h = _features(4, 3, 13400, 13399)
    narrow = _ends(h).double()
    out = _run("pairwise_distance", backend, h, None, None, False)
    _close(out, reference.kernel("pairwise_distance")(narrow, None, None, False), "value")
    grad = torch.ones_like(out)
    to_h = _run("pairwise_distance_backward", backend, grad, h, None, None, False)
    wanted = reference.kernel("pairwise_distance_backward")(
        _ends(grad).double(), narrow, None, None, False
    )
    _close(to_h, wanted, "gradient")


def warp(backend: str, device: str, last: bool = False) -> None:
    """Moved by whole pixels, and by nothing: the result is known."""
    _need(backend, device, "warp_affine", 3)
    x = _features(2, 260, 2048, 2017, last)
    theta = ops.affine.identity(2, device=device)
    out = _run("warp_affine", backend, x, theta, x.shape[2:], "nearest", "zeros", False)
    _same_everywhere(out, x, "nearest, identity")
    del out
    theta[:, 0, 2] = 2 * 3 / x.shape[3]
    out = _run("warp_affine", backend, x, theta, x.shape[2:], "nearest", "zeros", False)
    _same_everywhere(out[..., :-3], x[..., 3:], "nearest, moved by three columns")
    del out
    arguments = (x, x, ops.affine.identity(2, device=device), "nearest", "zeros", False)
    to_x, _ = _run("warp_affine_backward", backend, *arguments, True, False, True)
    _same_everywhere(to_x, x, "gradient of the identity")


def _same_everywhere(found: Tensor, wanted: Tensor, what: str) -> None:
    """Image by image, so that little memory is needed beside the two."""
    for image, (one, two) in enumerate(zip(found, wanted, strict=True)):
        different = int((one != two).sum())
        if different:
            raise AssertionError(f"{what}: {different} elements of image {image} differ")


def distance_to_gaussian(backend: str, device: str) -> None:
    """More than 2^31 entries of factors; x is small."""
    _need(backend, device, "mahalanobis", 2)
    channels, height, width = 64, 1024, 1013
    packed = channels * (channels + 1) // 2
    assert height * width * packed > BEYOND
    whitener = torch.empty(height * width, packed, dtype=torch.bfloat16, device=device).normal_()
    x = torch.randn(1, channels, height, width, device=device)
    mean = torch.randn(channels, height, width, device=device)
    out = _run("mahalanobis", backend, x, mean, whitener, None, None, False)
    factors = _ends(whitener.view(height, width, packed).permute(2, 0, 1))
    narrow = factors.permute(1, 2, 0).reshape(-1, packed).double()
    wanted = reference.kernel("mahalanobis")(_ends(x).double(), _ends(mean).double(), narrow, False)
    torch.testing.assert_close(_ends(out).double(), wanted, rtol=1e-4, atol=1e-4)


def _and_empty(check: Callable[..., None], *arguments: Any) -> None:
    try:
        check(*arguments)
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def checks(backend: str, device: str) -> dict[str, Callable[[], Any]]:
    own = (backend, device)
    beyond = "above 2^31 elements: "
    return {
        f"{beyond}mahalanobis": partial(_and_empty, distance_to_gaussian, *own),
        f"{beyond}dense_similarity": partial(_and_empty, similarity, *own),
        f"{beyond}warp_affine": partial(_and_empty, warp, *own),
        f"{beyond}pairwise_distance": partial(_and_empty, distance, *own),
        f"{beyond}dense_similarity, channels_last": partial(_and_empty, similarity, *own, True),
        f"{beyond}warp_affine, channels_last": partial(_and_empty, warp, *own, True),
    }
