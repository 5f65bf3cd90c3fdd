"""How far a result may be from the exact one.

The yardstick is PyTorch itself: ``|out - exact| <= 2 |torch_same_dtype - exact| + small``, where
``exact`` is the reference in float64 on the same inputs and ``torch_same_dtype`` is the reference
in the dtype under test. ``small`` is a few units in the last place of the largest exact value; it
covers the cases where plain PyTorch happens to be exact.

In float64 the exact result is itself rounded, and plain PyTorch would be compared with itself.
There ``float64_yardstick`` takes the error that PyTorch makes on the same inputs in float32, in
units in the last place.

A sample position that lies on a discontinuity (floor() at a pixel edge) may fall on either side;
``edge_band`` finds these pixels, so that they can be left out, and bounds how many they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Units in the last place of the largest value that may be off on top of twice PyTorch's error.
ULPS = 4


def float64_yardstick(exact: Tensor, narrow: Tensor, narrow_exact: Tensor) -> Tensor:
    """What plain PyTorch could have given in float64 beside ``exact``.

    Args:
        exact: the result in float64.
        narrow: the result of the same computation on inputs rounded to float32, in float32.
        narrow_exact: the same on the rounded inputs in float64.
    """
    error = narrow.detach().double().to(narrow_exact.device) - narrow_exact.detach()
    ratio = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
    return exact + error * ratio


def _scale(exact: Tensor) -> float:
    return exact.abs().max().item() if exact.numel() else 0.0


def small_term(exact: Tensor, dtype: torch.dtype, ulps: float = ULPS) -> float:
    """The stated small term: ``ulps`` units in the last place of ``dtype`` at the largest value."""
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    return ulps * max(torch.finfo(dtype).eps * _scale(exact), smallest)


def _worst(values: Tensor, exact: Tensor) -> float:
    return (values.double() - exact).abs().max().item() if exact.numel() else 0.0


def assert_accurate(
    out: Tensor,
    exact: Tensor,
    same_dtype: Tensor | None = None,
    *,
    ulps: float = ULPS,
    ignore: Tensor | None = None,
    name: str = "result",
) -> None:
    """``max |out - exact| <= 2 max |same_dtype - exact| + small``.

    Args:
        out: the result under test, in its own dtype.
        exact: the float64 result on the same inputs, same shape.
        same_dtype: plain PyTorch in the dtype of ``out``; None: the small term alone.
        ulps: size of the small term, see ``small_term``.
        ignore: bool, True where a discontinuity makes two answers right; broadcast to the result.
        name: what the message calls it.
    """
    assert out.shape == exact.shape, f"{name}: shape {list(out.shape)}, not {list(exact.shape)}"
    exact = exact.double().cpu()
    values = out.detach().double().cpu()
    allowed = small_term(exact, out.dtype, ulps)
    if ignore is not None:
        ignore = ignore.cpu().expand_as(exact)
        values = torch.where(ignore, exact, values)
    assert torch.isfinite(values).all(), f"{name}: {int((~values.isfinite()).sum())} not finite"
    if same_dtype is not None:
        baseline = same_dtype.detach().double().cpu()
        if ignore is not None:
            baseline = torch.where(ignore, exact, baseline)
        allowed += 2 * _worst(baseline, exact)
    worst = _worst(values, exact)
    assert worst <= allowed, (
        f"{name}: off by {worst:.3g}, allowed {allowed:.3g} (largest value {_scale(exact):.3g})"
    )


def assert_gradient_aggregate(
    out: Tensor,
    exact: Tensor,
    same_dtype: Tensor,
    *,
    relative: float = 1e-6,
    name: str = "gradient",
) -> None:
    """Guards on a gradient as a whole, which single entries cannot give: length, direction, bias.

    The error's length is at most twice PyTorch's plus ``relative`` of the gradient's, and the
    error's sum is no larger than a random walk of that length would make likely (8 sigma), so that
    a systematic loss of weight does not pass as rounding.
    """
    exact = exact.double().cpu().flatten()
    error = out.detach().double().cpu().flatten() - exact
    baseline = same_dtype.detach().double().cpu().flatten() - exact
    assert torch.isfinite(error).all(), f"{name}: not finite"
    length = exact.norm().item()
    allowed = 2 * baseline.norm().item() + relative * length
    assert error.norm().item() <= allowed, (
        f"{name}: error of length {error.norm():.3g}, allowed {allowed:.3g} of {length:.3g}"
    )
    bias = abs(error.sum().item())
    limit = 2 * abs(baseline.sum().item()) + 8 * max(error.norm().item(), relative * length)
    assert bias <= limit, f"{name}: errors sum to {bias:.3g}, allowed {limit:.3g}"


def source_positions(
    theta: Tensor, input_size: tuple[int, int], size: tuple[int, int], align_corners: bool
) -> tuple[Tensor, Tensor]:
    """Row and column that each output pixel samples, in input pixels, float64 ``[B,h,w]``."""
    theta = theta.detach().double().cpu()
    shape = [len(theta), 1, *size]
    if len(theta) == 0:  # affine_grid refuses an empty batch
        return torch.empty(0, *size), torch.empty(0, *size)
    grid = torch.nn.functional.affine_grid(theta, shape, align_corners)

    def pixels(coordinate: Tensor, count: int) -> Tensor:
        if align_corners:
            return (coordinate + 1) * (count - 1) / 2
        return ((coordinate + 1) * count - 1) / 2

    return pixels(grid[..., 1], input_size[0]), pixels(grid[..., 0], input_size[1])


def coordinate_error(theta: Tensor, input_size: tuple[int, int]) -> float:
    """Bound on the error of a sample position in pixels, computed in theta's dtype.

    A position is a sum of three products scaled by half the size; each step rounds at the size of
    the largest term.
    """
    largest = theta.detach().abs().double().sum(-1).max().item() if theta.numel() else 0.0
    return 8 * torch.finfo(theta.dtype).eps * (1 + largest) * (1 + max(input_size))


def edge_band(
    theta: Tensor,
    input_size: tuple[int, int],
    size: tuple[int, int],
    align_corners: bool,
    mode: str,
) -> Tensor:
    """True ``[B,h,w]`` where rounding of the position can change which pixels are read.

    For ``nearest`` these are the half-integers, for ``bilinear`` the integers, where the value is
    continuous and only the derivative by the position jumps. With align_corners the position along
    an axis of one pixel is exactly 0 and does not move, so there is nothing to hide.
    """
    width = coordinate_error(theta, input_size)
    edge = 0.5 if mode == "nearest" else 0.0
    positions = source_positions(theta, input_size, size, align_corners)
    band = torch.zeros(len(theta), *size, dtype=torch.bool)
    for position, count in zip(positions, input_size, strict=True):
        if count > 1 or not align_corners:
            band |= ((position - edge) - (position - edge).round()).abs() <= width
    return band


def assert_rare(band: Tensor, share: float = 0.02) -> None:
    """A band that hides more than ``share`` of the pixels would hide errors too."""
    if band.numel():
        part = band.float().mean().item()
        assert part <= share, f"{part:.1%} of the pixels lie on a discontinuity; choose other maps"
