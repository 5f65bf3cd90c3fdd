"""What the kernels of dense_similarity compute alike: lengths, shares, gradients, order of images.

Vectors are tiles ``[C,X]``, what belongs to a location is ``[X]``.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def inverse_length(squares):
    """One over the length, 0 for a vector of zeros; NaN stays NaN."""
    zero = squares < 1.1754944e-38
    return tl.where(zero, 0.0, tl.rsqrt(tl.where(zero, 1.0, squares)))


@triton.jit
def share_among(partners):
    """One over the number of partners, 0 without any."""
    return tl.where(partners > 0, 1.0 / tl.maximum(partners, 1).to(tl.float32), 0.0)


@triton.jit
def image_at(order_ptr, place, GROUPED: tl.constexpr):
    """The image at a place of the walk: of the order by groups, if there are any."""
    image = place
    if GROUPED:
        image = tl.load(order_ptr + place)
    return image


@triton.jit
def gradient_of(u, others, along, u_factor, factor):
    """Gradient ``[C,X]`` of the cosine of u with the others, times ``factor``.

    Args:
        u, others: ``[C,X]``, the vector and the sum of its partners' unit vectors.
        along: ``[X]``, the product of the others with the unit vector of u.
        u_factor: ``[X]``, one over the length of u.
    """
    gradient = (others - u * (along * u_factor)[None, :]) * factor[None, :]
    # Where u is zero the gradient is, whatever NaN the others hold.
    return tl.where((u_factor == 0)[None, :] & (u == 0), 0.0, gradient)
