"""Algebra of affine maps ``theta`` ``[..., 2, 3]``, differentiable, in plain PyTorch.

A map takes homogeneous normalised OUTPUT coordinates ``(x, y, 1)`` to normalised INPUT coordinates,
as in ``torch.nn.functional.affine_grid``: it says where each output pixel is read from. So a
positive translation moves the picture towards the upper left, and a scale above 1 shrinks it.

Normalised coordinates run from -1 to 1 along both axes whatever the shape of the image. ``aspect``,
width over height in true units, says how much longer the x axis really is; with it a rotation is a
true rotation on any image.

Nothing here synchronises with a device, unless ``check=True`` asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastalign.errors import ConfigError

# Parameters of each family, in order. Rotations in radians, scales as logarithms, translations in
# normalised units (2 is the full width or height).
FAMILIES: dict[str, tuple[str, ...]] = {
    "translation": ("shift_x", "shift_y"),
    "rotation": ("angle",),
    "scale": ("log_scale_x", "log_scale_y"),
    "shear": ("shear_x", "shear_y"),
    "rotation_scale": ("angle", "log_scale"),
    "rotation_translation": ("angle", "shift_x", "shift_y"),
    "scale_translation": ("log_scale_x", "log_scale_y", "shift_x", "shift_y"),
    "similarity": ("angle", "log_scale", "shift_x", "shift_y"),
    "affine": ("xx", "xy", "yx", "yy", "shift_x", "shift_y"),
}


def identity(
    batch: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> Tensor:
    """Identity maps ``[batch,2,3]``."""
    return torch.eye(2, 3, dtype=dtype, device=device).repeat(batch, 1, 1)


def _check(name: str, theta: Tensor) -> None:
    if theta.dim() < 2 or theta.shape[-2:] != (2, 3):
        raise ValueError(f"{name} has shape {list(theta.shape)}, expected [..., 2, 3]")
    if theta.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"{name} has dtype {theta.dtype}, expected float32 or float64; convert it with .float()"
        )


def compose(first: Tensor, second: Tensor) -> Tensor:
    """One map for two warps: by ``first``, then the result by ``second``.

    ``warp(warp(x, first), second)`` samples the same places as ``warp(x, compose(first, second))``;
    as 3x3 matrices the result is ``first @ second``, since each map leads from output to input.

    Args:
        first, second: ``[..., 2, 3]``, broadcast against each other.

    Returns:
        ``[..., 2, 3]``.
    """
    _check("first", first)
    _check("second", second)
    # Sums of products, not matmul: autocast and TF32 would take the precision of coordinates away.
    linear = first[..., :2]
    product = (linear.unsqueeze(-1) * second.unsqueeze(-3)).sum(-2)
    shift = torch.nn.functional.pad(first[..., 2:], (2, 0))
    return product + shift


def determinant(theta: Tensor) -> Tensor:
    """Input area that one unit of output area covers, negative for a reflection: ``[...]``."""
    _check("theta", theta)
    return theta[..., 0, 0] * theta[..., 1, 1] - theta[..., 0, 1] * theta[..., 1, 0]


def invert(theta: Tensor, *, check: bool = False) -> Tensor:
    """The inverse map, in closed form: ``compose(theta, invert(theta))`` is the identity.

    Args:
        theta: ``[..., 2, 3]``.
        check: raise on a map without an inverse. This waits for the device; without it such a map
            gives infinities or NaN.

    Raises:
        ConfigError: ``check`` and some map is singular or not finite.
    """
    area = determinant(theta)
    if check and not bool(torch.isfinite(theta).all() & (area != 0).all()):
        raise ConfigError(
            f"theta holds maps without an inverse (determinants {area.flatten().tolist()[:8]}); "
            "bound the scale so that no map collapses the image"
        )
    xx, xy, tx = theta[..., 0, :].unbind(-1)
    yx, yy, ty = theta[..., 1, :].unbind(-1)
    rows = (yy, -xy, xy * ty - yy * tx), (-yx, xx, yx * tx - xx * ty)
    return torch.stack([torch.stack(row, -1) for row in rows], -2) / area[..., None, None]


def number_of_parameters(family: str) -> int:
    """Number of parameters of a family of maps.

    Raises:
        ValueError: no such family.
    """
    if family not in FAMILIES:
        raise ValueError(f"family is {family!r}, expected one of {', '.join(FAMILIES)}")
    return len(FAMILIES[family])


def from_parameters(parameters: Tensor, family: str, aspect: float = 1.0) -> Tensor:
    """Maps from the parameters of a family; zeros give the identity.

    The map is ``[A | shift]``. In coordinates with true units A is a rotation by ``angle``, times
    ``exp(log_scale)`` (or ``diag(exp(log_scale_x), exp(log_scale_y))``), or ``1 + [[0, shear_x],
    [shear_y, 0]]``, or ``1 + [[xx, xy], [yx, yy]]``; ``aspect`` converts it to normalised ones.

    Args:
        parameters: ``[..., number_of_parameters(family)]`` in the order of ``FAMILIES``; 16-bit
            dtypes are taken up to float32.
        family: key of ``FAMILIES``.
        aspect: width over height of the image in true units.

    Returns:
        ``[..., 2, 3]``, float32 or float64.

    Raises:
        ValueError: an unknown family, a wrong number of parameters or an aspect that is not
            positive.
    """
    expected = number_of_parameters(family)
    if parameters.dim() == 0 or parameters.shape[-1] != expected:
        raise ValueError(
            f"parameters has shape {list(parameters.shape)}, expected [..., {expected}] for "
            f"family {family!r}: {', '.join(FAMILIES[family])}"
        )
    if not aspect > 0:
        raise ValueError(f"aspect is {aspect}, expected width / height, above 0")
    if parameters.dtype in (torch.float16, torch.bfloat16):
        parameters = parameters.float()
    given = dict(zip(FAMILIES[family], parameters.unbind(-1), strict=True))
    zero = torch.zeros_like(parameters[..., 0])
    xx, xy, yx, yy = _linear(given, zero)
    return torch.stack(
        [
            torch.stack([xx, xy / aspect, given.get("shift_x", zero)], -1),
            torch.stack([yx * aspect, yy, given.get("shift_y", zero)], -1),
        ],
        -2,
    )


def generators(family: str, aspect: float = 1.0) -> Tensor:
    """Derivative of a family's maps by each of its P parameters at the identity: ``[P,2,3]``,
    float32, on the CPU.

    Raises:
        ValueError: an unknown family or an aspect that is not positive.
    """
    # The parameters stand in the maps alone, in sines or in exponentials, so that a central
    # difference is right to the square of the step.
    steps = 1e-4 * torch.eye(number_of_parameters(family), dtype=torch.float64)
    there = from_parameters(steps, family, aspect)
    return ((there - from_parameters(-steps, family, aspect)) / 2e-4).float()


def _linear(given: dict[str, Tensor], zero: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four entries of A in true units."""
    if "angle" in given:
        scale = torch.exp(given.get("log_scale", zero))
        cosine, sine = scale * torch.cos(given["angle"]), scale * torch.sin(given["angle"])
        return cosine, -sine, sine, cosine
    if "log_scale_x" in given:
        return torch.exp(given["log_scale_x"]), zero, zero, torch.exp(given["log_scale_y"])
    if "shear_x" in given:
        return zero + 1, given["shear_x"], given["shear_y"], zero + 1
    if "xx" in given:
        return given["xx"] + 1, given["xy"], given["yx"], given["yy"] + 1
    return zero + 1, zero, zero, zero + 1


def pixel_centres(count: int, like: Tensor, align_corners: bool) -> Tensor:
    """Normalised coordinates of the pixels of an axis, in the dtype of ``like``: ``[count]``."""
    if align_corners and count > 1:
        return torch.linspace(-1, 1, count, dtype=like.dtype, device=like.device)
    centres = torch.arange(count, dtype=like.dtype, device=like.device)
    return (2 * centres + 1) / count - 1


def valid_mask(
    theta: Tensor,
    input_size: Sequence[int],
    output_size: Sequence[int] | None = None,
    align_corners: bool = False,
    margin: float = 0.0,
) -> Tensor:
    """Which output pixels of a warp were read from inside the input.

    A pixel is inside where its sampling position lies on the area that the input's pixels cover,
    less a border of ``margin`` pixels. With a margin of 0.5 all neighbours that bilinear
    interpolation weighs lie in the image.

    Args:
        theta: ``[B,2,3]``.
        input_size: ``(height, width)`` of what is sampled.
        output_size: ``(height, width)`` of the result; None: the input's.
        align_corners: as in ``warp_affine``.
        margin: border of the input that does not count, in input pixels; negative to add one.

    Returns:
        bool ``[B,height,width]``, True where inside. NaN coordinates are outside.
    """
    _check("theta", theta)
    height, width = input_size
    out_height, out_width = input_size if output_size is None else output_size
    column = pixel_centres(out_width, theta, align_corners)
    row = pixel_centres(out_height, theta, align_corners)[:, None]

    def within(axis: int, size: int) -> Tensor:
        by_x, by_y, shift = (theta[:, axis, k, None, None] for k in range(3))
        scale = (size - 1) / 2 if align_corners else size / 2
        from_centre = (by_x * column + by_y * row + shift) * scale
        return from_centre.abs() <= size / 2 - margin

    return within(0, width) & within(1, height)


def magnitude(theta: Tensor, aspect: float = 1.0) -> dict[str, Tensor]:
    """How far maps are from the identity, in units that a person can read.

    Args:
        theta: ``[..., 2, 3]``.
        aspect: width over height of the image in true units.

    Returns:
        ``shift``: length of the translation, each axis as a fraction of the image's size;
        ``rotation``: degrees, that of the nearest rotation, positive as in ``from_parameters``;
        ``scale``: square root of the area factor. Each ``[...]``.
    """
    _check("theta", theta)
    shift = torch.linalg.vector_norm(theta[..., 2], dim=-1) / 2
    sine = theta[..., 1, 0] / aspect - theta[..., 0, 1] * aspect
    cosine = theta[..., 0, 0] + theta[..., 1, 1]
    return {
        "shift": shift,
        "rotation": torch.rad2deg(torch.atan2(sine, cosine)),
        "scale": determinant(theta).abs().sqrt(),
    }
