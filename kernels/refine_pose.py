"""All Gauss-Newton steps of a candidate pose in one launch: a program for each candidate.

A pass over the template samples the image where the pose sends each location and adds up the
weighted products of the features of a location, each pair of them over all locations: 1, the
template, the image, and the change of the template with each of P parameters. Their symmetric
matrix, padded to 16 x 16, stays in registers, where the system of at most six unknowns is solved by
elimination. Sums are float64: correlations near their maximum differ by less than float32 keeps.

Bytes: edges, template and weight once from memory. In each pass they come from the first-level
cache, 16 KB a map of 64 x 64 locations, since a program cannot say what it keeps in shared memory
from pass to pass.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastalign.kernels.common import float64_limit
from fastalign.ops.reference.refine_pose import DAMPING, LEAST, LEAST_COVERED, RIDGE, TIE
from fastalign.ops.triton_plans import forced

__all__ = ["can_run", "refine_pose"]

# Locations of a step at most, and warps. Not timed: four locations for each lane of eight warps,
# with which what a location needs stays in registers. The way to time them:
#   python benchmarks/ops.py --device cuda --backends triton --only refine_pose
#       --plan "refine_pose.triton: locations, warps"
_LOCATIONS = 1024
_WARPS = 8
_MOST_LOCATIONS = 2**30


@triton.jit
def _feature(
    NUMBER: tl.constexpr, value, image, slope_x, slope_y, x, y, generators
):  # fmt: skip
    """Of locations, in float64; see above for what each number means."""
    if NUMBER == 0:
        found = tl.full(value.shape, 1.0, tl.float64)
    elif NUMBER == 1:
        found = value.to(tl.float64)
    elif NUMBER == 2:
        found = image.to(tl.float64)
    else:
        g = generators + (NUMBER - 3) * 6
        along_x = tl.load(g) * x + (tl.load(g + 1) * y + tl.load(g + 2))
        along_y = tl.load(g + 3) * x + (tl.load(g + 4) * y + tl.load(g + 5))
        found = (slope_x * along_x + slope_y * along_y).to(tl.float64)
    return found


@triton.jit
def _slope(template, before, step, has_both, factor):
    """Of the template along an axis, from its neighbours there."""
    first = tl.load(template + before, mask=has_both, other=0.0)
    last = tl.load(template + before + 2 * step, mask=has_both, other=0.0)
    return tl.where(has_both, (last - first) * factor, 0.0)


@triton.jit
def _sums(
    edges, template, weight, generators, t0, t1, t2, t3, t4, t5,
    height, width, e_h, e_w, t_h, t_w, w_h, w_w, row, column,
    FEATURES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Symmetric matrix [16,16] of the sums of a pass."""
    gram = tl.zeros((16, 16), tl.float64)
    wide = width.to(tl.float32)
    high = height.to(tl.float32)
    inside_x = 1.0 - tl.div_rn(2.0, wide)
    inside_y = 1.0 - tl.div_rn(2.0, high)
    for first in range(0, height * width, BLOCK):
        location = first + tl.arange(0, BLOCK)
        at_row = location // width
        at_column = location % width
        x = tl.div_rn((2 * at_column + 1).to(tl.float32), wide) - 1.0
        y = tl.div_rn((2 * at_row + 1).to(tl.float32), high) - 1.0
        to_x = t0 * x + (t1 * y + t2)
        to_y = t3 * x + (t4 * y + t5)
        # Comparisons with what is not finite are false.
        inside = (location < height * width) & (tl.abs(to_x) <= inside_x)
        inside = inside & (tl.abs(to_y) <= inside_y)
        across = tl.where(inside, to_x * (0.5 * wide) + 0.5 * (wide - 1.0), 0.0)
        down = tl.where(inside, to_y * (0.5 * high) + 0.5 * (high - 1.0), 0.0)
        left = across.to(tl.int32)
        top = down.to(tl.int32)
        right = across - left.to(tl.float32)
        below = down - top.to(tl.float32)
        corner = edges + top.to(tl.int64) * e_h + left.to(tl.int64) * e_w
        a = tl.load(corner, mask=inside, other=0.0).to(tl.float32)
        b = tl.load(corner + e_w, mask=inside, other=0.0).to(tl.float32)
        c = tl.load(corner + e_h, mask=inside, other=0.0).to(tl.float32)
        d = tl.load(corner + e_h + e_w, mask=inside, other=0.0).to(tl.float32)
        upper = a + right * (b - a)
        image = upper + below * (c + right * (d - c) - upper)
        at_row = at_row.to(tl.int64)
        at_column = at_column.to(tl.int64)
        heavy = tl.load(weight + at_row * w_h + at_column * w_w, mask=inside, other=0.0)
        heavy = heavy.to(tl.float64)
        here = at_row * t_h + at_column * t_w
        value = tl.load(template + here, mask=inside, other=0.0)
        inner_x = inside & (at_column > 0) & (at_column + 1 < width)
        inner_y = inside & (at_row > 0) & (at_row + 1 < height)
        slope_x = _slope(template, here - t_w, t_w, inner_x, 0.25 * wide)
        slope_y = _slope(template, here - t_h, t_h, inner_y, 0.25 * high)
        for i in tl.static_range(FEATURES):
            one = heavy * _feature(i, value, image, slope_x, slope_y, x, y, generators)
            for j in tl.static_range(i + 1):
                other = _feature(j, value, image, slope_x, slope_y, x, y, generators)
                both = ((row == i) & (column == j)) | ((row == j) & (column == i))
                gram += tl.where(both, tl.sum(one * other, 0), 0.0)
    return gram


@triton.jit
def _entry(values, index, NUMBER: tl.constexpr):
    """One number of a vector."""
    return tl.sum(tl.where(index == NUMBER, values, 0.0), 0)


@triton.jit
def _column(matrix, column, NUMBER: tl.constexpr):
    return tl.sum(tl.where(column == NUMBER, matrix, 0.0), 1)


@triton.jit
def _compare(gram, enough, row, column, index, LEAST: tl.constexpr):
    """Correlation, and the system [16,16] of the next step, whose right side is column 0."""
    with_one = _column(gram, column, 0)
    weight = _entry(with_one, index, 0)
    total = tl.maximum(weight, LEAST)
    with_one = with_one / total
    with_template = _column(gram, column, 1) / total
    with_image = _column(gram, column, 2) / total
    template = _entry(with_one, index, 1)
    image = _entry(with_one, index, 2)
    spread = _entry(with_template, index, 1) - template * template
    of_image = _entry(with_image, index, 2) - image * image
    # A maximum would take the number beside a NaN.
    spread = tl.where(spread < LEAST, LEAST, spread)
    of_image = tl.where(of_image < LEAST, LEAST, of_image)
    both = _entry(with_template, index, 2)
    correlation = (both - image * template) / tl.sqrt(of_image * spread)
    correlation = tl.where((weight > enough) & (correlation <= 2.0), correlation, -1.0)
    gain = tl.sqrt(spread / of_image)
    descent = gain * (with_image - image * with_one) - (with_template - template * with_one)
    return correlation, tl.where(column == 0, descent[:, None], gram / total)


@triton.jit
def _solved(
    system, row, column, FEATURES: tl.constexpr, DAMPING: tl.constexpr, RIDGE: tl.constexpr
):  # fmt: skip
    """The step [16], its entries where the changes are among the features."""
    system = tl.where(row == column, system + RIDGE + system * DAMPING, system)
    for pivot in tl.static_range(3, FEATURES):
        chosen = tl.sum(tl.where(row == pivot, system, 0.0), 0)
        factor = _column(system, column, pivot)
        number = tl.arange(0, 16)
        chosen = chosen / tl.sum(tl.where(number == pivot, chosen, 0.0), 0)
        less = system - factor[:, None] * chosen[None, :]
        system = tl.where(row == pivot, chosen[None, :], less)
    return _column(system, column, 0)


@triton.jit
def _generator(step, generators, index, ENTRY: tl.constexpr, FEATURES: tl.constexpr):
    """An entry of minus the step's generator."""
    changes = (index >= 3) & (index < FEATURES)
    own = tl.load(generators + (index - 3) * 6 + ENTRY, mask=changes, other=0.0)
    return -tl.sum(tl.where(changes, step * own.to(tl.float64), 0.0), 0)


@triton.jit
def _moved(t0, t1, t2, m0, m1, m2, m3, m4, m5):
    """A row of theta behind a move."""
    a = t0.to(tl.float64)
    b = t1.to(tl.float64)
    first = (a * m0 + b * m3).to(tl.float32)
    second = (a * m1 + b * m4).to(tl.float32)
    return first, second, (a * m2 + b * m5 + t2.to(tl.float64)).to(tl.float32)


@triton.jit
def _kept(best, at, share):
    return tl.where(share > 0.0, best + share * (at - best), best)


@triton.jit(do_not_specialize=[
    "candidates", "iterations", "height", "width", "e_b", "e_h", "e_w", "a_b", "a_k", "a_r", "a_c",
    "t_h", "t_w", "w_h", "w_w",
])  # fmt: skip
def _refine(
    edges,  # [B,1,H,W]
    theta,  # [B,K,2,3]
    template,  # [H,W]
    weight,  # [H,W]
    generators,  # [P,2,3] contiguous
    refined,  # [B,K,2,3] contiguous
    correlations,  # [B,K] contiguous
    candidates, iterations, height, width,
    e_b, e_h, e_w, a_b, a_k, a_r, a_c, t_h, t_w, w_h, w_w,
    FEATURES: tl.constexpr, BLOCK: tl.constexpr, DAMPING: tl.constexpr, RIDGE: tl.constexpr,
    COVERED: tl.constexpr, TIE: tl.constexpr, LEAST: tl.constexpr,
):  # fmt: skip
    candidate = tl.program_id(0)
    image = (candidate // candidates).to(tl.int64)
    edges += image * e_b
    start = theta + image * a_b + (candidate % candidates).to(tl.int64) * a_k
    t0 = tl.load(start)
    t1 = tl.load(start + a_c)
    t2 = tl.load(start + 2 * a_c)
    t3 = tl.load(start + a_r)
    t4 = tl.load(start + a_r + a_c)
    t5 = tl.load(start + a_r + 2 * a_c)
    b0 = t0
    b1 = t1
    b2 = t2
    b3 = t3
    b4 = t4
    b5 = t5
    best = tl.cast(-1e300, tl.float64)
    index = tl.arange(0, 16)
    row = index[:, None]
    column = index[None, :]
    enough = tl.cast(0.0, tl.float64)
    for first in range(0, height * width, BLOCK):
        location = first + tl.arange(0, BLOCK)
        offset = (location // width).to(tl.int64) * w_h + (location % width).to(tl.int64) * w_w
        part = tl.load(weight + offset, mask=location < height * width, other=0.0)
        enough += tl.sum(part.to(tl.float64), 0)
    enough = enough * COVERED
    for iteration in range(iterations + 1):
        gram = _sums(
            edges, template, weight, generators, t0, t1, t2, t3, t4, t5,
            height, width, e_h, e_w, t_h, t_w, w_h, w_w, row, column, FEATURES, BLOCK,
        )  # fmt: skip
        correlation, system = _compare(gram, enough, row, column, index, LEAST)
        part = (correlation - best) / TIE + 1.0
        share = tl.minimum(tl.maximum(part, 0.0), 1.0).to(tl.float32)
        b0 = _kept(b0, t0, share)
        b1 = _kept(b1, t1, share)
        b2 = _kept(b2, t2, share)
        b3 = _kept(b3, t3, share)
        b4 = _kept(b4, t4, share)
        b5 = _kept(b5, t5, share)
        best = tl.where(correlation > best, correlation, best)
        if iteration < iterations:
            step = _solved(system, row, column, FEATURES, DAMPING, RIDGE)
            g0 = _generator(step, generators, index, 0, FEATURES)
            g1 = _generator(step, generators, index, 1, FEATURES)
            g2 = _generator(step, generators, index, 2, FEATURES)
            g3 = _generator(step, generators, index, 3, FEATURES)
            g4 = _generator(step, generators, index, 4, FEATURES)
            g5 = _generator(step, generators, index, 5, FEATURES)
            # The exponential of the generator, to second order.
            m0 = 1.0 + g0 + 0.5 * (g0 * g0 + g1 * g3)
            m1 = g1 + 0.5 * (g0 * g1 + g1 * g4)
            m2 = g2 + 0.5 * (g0 * g2 + g1 * g5)
            m3 = g3 + 0.5 * (g3 * g0 + g4 * g3)
            m4 = 1.0 + g4 + 0.5 * (g3 * g1 + g4 * g4)
            m5 = g5 + 0.5 * (g3 * g2 + g4 * g5)
            t0, t1, t2 = _moved(t0, t1, t2, m0, m1, m2, m3, m4, m5)
            t3, t4, t5 = _moved(t3, t4, t5, m0, m1, m2, m3, m4, m5)
    to = refined + candidate.to(tl.int64) * 6
    tl.store(to, b0)
    tl.store(to + 1, b1)
    tl.store(to + 2, b2)
    tl.store(to + 3, b3)
    tl.store(to + 4, b4)
    tl.store(to + 5, b5)
    tl.store(correlations + candidate, best.to(tl.float32))


def can_run(op: str, edges: Tensor, *others: Tensor) -> str | None:
    """Why the kernel cannot serve these tensors, or None."""
    if edges.dim() == 4 and edges.shape[2] * edges.shape[3] > _MOST_LOCATIONS:
        return f"the Triton kernel counts up to {_MOST_LOCATIONS} pixels of an image"
    return float64_limit(edges)


def refine_pose(
    edges: Tensor,
    theta: Tensor,
    template: Tensor,
    weight: Tensor,
    generators: Tensor,
    iterations: int,
) -> tuple[Tensor, Tensor]:
    """See ``fastalign.ops.refine_pose``."""
    refined = theta.new_empty(theta.shape)
    correlation = theta.new_empty(theta.shape[:2])
    if correlation.numel() == 0:
        return refined, correlation
    height, width = template.shape
    choice = forced("refine_pose")
    block = min(_LOCATIONS, max(16, triton.next_power_of_2(height * width)))
    with torch.cuda.device_of(edges):
        _refine[(correlation.numel(),)](
            edges, theta, template, weight, generators.contiguous(), refined, correlation,
            theta.shape[1], iterations, height, width,
            edges.stride(0), edges.stride(2), edges.stride(3), *theta.stride(),
            *template.stride(), *weight.stride(),
            FEATURES=3 + len(generators),
            BLOCK=choice.get("locations", block),
            DAMPING=DAMPING, RIDGE=RIDGE, COVERED=LEAST_COVERED, TIE=TIE, LEAST=LEAST,
            num_warps=choice.get("warps", _WARPS),
        )  # fmt: skip
    return refined, correlation
