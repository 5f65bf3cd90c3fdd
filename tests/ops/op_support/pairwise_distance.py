"""``pairwise_distance``, mean distance of each image to the others: definition and calls."""

from __future__ import annotations

import torch
from torch import Tensor

from op_support import wrong
from op_support.definitions import partners, root
from op_support.inputs import Inputs
from op_support.kinds import Case, Function, Row, mean
from op_support.wrong import B, C, H, W, f16, f32


def definition(
    h: Tensor,
    mask: Tensor | None = None,
    groups: Tensor | None = None,
    squared: bool = False,
    *,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Mean over valid b != a of the group of |h_a - h_b|: ``[B,H,W]``."""
    h = h.to(dtype)
    batch, _, height, width = h.shape
    rows = []
    for a in range(batch):
        total, count = h[a].sum(0) * 0, torch.zeros(height, width, dtype=h.dtype)
        for b in partners(a, batch, groups):
            square = (h[a] - h[b]).square().sum(0)
            valid = torch.ones_like(count) if mask is None else (mask[a] & mask[b]).to(dtype)
            total = total + (square if squared else root(square)) * valid
            count += valid
        rows.append(total / count.clamp_min(1))
    return torch.stack(rows)


def _cases() -> list[Case]:
    name = "pairwise_distance"
    cases = []
    for squared in (False, True):
        for masked, grouped in ((False, False), (True, False), (False, True), (True, True)):
            words = [("squared", squared), ("mask", masked), ("groups", grouped)]
            options = ",".join(word for word, given in words if given)

            def tensors(
                i: Inputs, masked: bool = masked, grouped: bool = grouped
            ) -> tuple[Tensor, Tensor | None, Tensor | None]:
                return i.features(), i.mask() if masked else None, i.groups() if grouped else None

            cases += [
                Case(name, options, lambda i, t=tensors, s=squared: (*t(i), s)),
                Case(
                    f"{name}_backward",
                    options,
                    lambda i, t=tensors, s=squared: (i.location_gradient(), *t(i), s),
                ),
                Case(f"{name}_loss", options, lambda i, t=tensors, s=squared: (*t(i), s, True)),
            ]
    cases.append(
        Case(f"{name}_loss", "h=0", lambda i: (i.features(), i.mask(), None, False, False))
    )
    return cases


def _functions() -> list[Function]:
    return [
        Function(
            name,
            lambda i, masked=masked, grouped=grouped: (
                i.features(),
                i.mask() if masked else None,
                i.groups() if grouped else None,
            ),
            definition,
            (0,),
            {"squared": squared},
            ",".join(["mask"] * masked + ["groups"] * grouped),
        )
        for name, definition in (
            ("pairwise_distance", definition),
            ("pairwise_distance_loss", mean(definition)),
        )
        for squared in (False, True)
        for masked, grouped in ((False, False), (True, False), (False, True), (True, True))
    ]


def _wrong(name: str) -> list[Row]:
    return [
        (
            name,
            lambda: (wrong.features(B, C),),
            ValueError,
            (f"h has shape [{B}, {C}]", "expected [B, C, H, W]"),
        ),
        (
            name,
            lambda: (wrong.features(dtype=torch.complex64),),
            TypeError,
            ("h has dtype torch.complex64", "expected float32", "h.float()"),
        ),
        (
            name,
            lambda: (wrong.features(), wrong.mask(B, 1, H, W)),
            ValueError,
            (f"mask has shape [{B}, 1, {H}, {W}]", f"expected [{B}, {H}, {W}]", "of h"),
        ),
        (
            name,
            lambda: (wrong.features(), wrong.mask(dtype=f32)),
            TypeError,
            ("mask has dtype torch.float32", "expected torch.bool", "mask > 0"),
        ),
        (
            name,
            lambda: (wrong.features(), None, wrong.groups(1)),
            ValueError,
            ("groups has shape [1]", f"expected [{B}]", "one label for each image of h"),
        ),
    ]


WRONG = [
    *_wrong("pairwise_distance"),
    *_wrong("pairwise_distance_loss"),
    (
        "pairwise_distance_backward",
        lambda: (wrong.mean(B, H, W, dtype=f16), wrong.features(dtype=f16), None, None, False),
        TypeError,
        ("grad has dtype torch.float16", "expected torch.float32", "accumulation dtype of h"),
    ),
]

CASES = _cases()
FUNCTIONS = _functions()
# For checks that are slow or do not depend on the options.
ONE_OF_EACH = [f for f in FUNCTIONS if str(f).endswith("(mask,groups)")]

# Large inputs, for a machine with a GPU.
LARGE = ((32, 3, 61, 67), (9, 5, 128, 130), (65, 3, 17, 13))
