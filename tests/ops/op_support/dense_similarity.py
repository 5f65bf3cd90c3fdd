"""``dense_similarity``, mean cosine of each image with the others: definition and calls."""

from __future__ import annotations

import torch
from torch import Tensor

from op_support import wrong
from op_support.definitions import cosine, partners
from op_support.inputs import Inputs
from op_support.kinds import Case, Function, Row, negative_mean
from op_support.wrong import B, C, H, W, f16, i64


def definition(
    p: Tensor, z: Tensor, groups: Tensor | None = None, *, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Mean over b != a of the group of cos(p_a, z_b): ``[B,H,W]``."""
    p, z = p.to(dtype), z.to(dtype)
    images = []
    for a in range(len(p)):
        others = partners(a, len(p), groups)
        terms = [cosine(p[a], z[b]) for b in others]
        total = torch.stack(terms).sum(0) if terms else p[a].sum(0) * 0
        images.append(total / max(len(others), 1))
    return torch.stack(images)


def _cases() -> list[Case]:
    def pair(i: Inputs) -> tuple[Tensor, Tensor]:
        return i.features(), i.features()

    name = "dense_similarity"
    return [
        Case(name, "", lambda i: (*pair(i), None)),
        Case(name, "groups", lambda i: (*pair(i), i.groups())),
        *(
            Case(
                f"{name}_backward",
                f"{'groups,' if grouped else ''}p={need_p:d},z={need_z:d}",
                lambda i, grouped=grouped, need=(need_p, need_z): (
                    i.location_gradient(),
                    *pair(i),
                    i.groups() if grouped else None,
                    *need,
                ),
            )
            for grouped, need_p, need_z in (
                (False, True, True),
                (True, True, True),
                (False, True, False),
                (False, False, True),
            )
        ),
        *(
            Case(
                f"{name}_loss",
                f"{'groups,' if grouped else ''}p={need_p:d},z={need_z:d}",
                lambda i, grouped=grouped, need=(need_p, need_z): (
                    *pair(i),
                    i.groups() if grouped else None,
                    *need,
                ),
            )
            for grouped, need_p, need_z in (
                (False, True, False),
                (True, True, True),
                (False, False, False),
            )
        ),
    ]


def _functions() -> list[Function]:
    return [
        Function(
            name,
            lambda i, grouped=grouped: (
                i.features(),
                i.features(),
                i.groups() if grouped else None,
            ),
            definition,
            (0, 1),
            given="groups" if grouped else "",
        )
        for name, definition in (
            ("dense_similarity", definition),
            ("dense_similarity_loss", negative_mean(definition)),
        )
        for grouped in (False, True)
    ]


def _wrong(name: str) -> list[Row]:
    shape = f"[{B}, {C}, {H}, {W}]"
    return [
        (
            name,
            lambda: (wrong.features(C, H, W), wrong.features(C, H, W)),
            ValueError,
            (f"p has shape [{C}, {H}, {W}]", "expected [B, C, H, W]", "unsqueeze()"),
        ),
        (
            name,
            lambda: (wrong.features(dtype=i64), wrong.features(dtype=i64)),
            TypeError,
            ("p has dtype torch.int64", "expected float32, float64, float16 or bfloat16"),
        ),
        (
            name,
            lambda: (wrong.features(), wrong.features(B, C, W, H)),
            ValueError,
            (f"z has shape [{B}, {C}, {W}, {H}]", f"expected {shape}", "[B, C, H, W] of p"),
        ),
        (
            name,
            lambda: (wrong.features(), wrong.features(dtype=f16)),
            TypeError,
            ("z has dtype torch.float16", "expected torch.float32", "the dtype of p"),
        ),
        (
            name,
            lambda: (wrong.features(), wrong.features(), wrong.groups(B + 1)),
            ValueError,
            (f"groups has shape [{B + 1}]", f"expected [{B}]", "one label for each image of p"),
        ),
        (
            name,
            lambda: (wrong.features(), wrong.features(), wrong.groups(dtype=torch.int32)),
            TypeError,
            ("groups has dtype torch.int32", "expected torch.int64", ".long()"),
        ),
    ]


WRONG = [
    *_wrong("dense_similarity"),
    *_wrong("dense_similarity_loss"),
    (
        "dense_similarity_backward",
        lambda: (wrong.mean(B, W, H), wrong.features(), wrong.features(), None, True, True),
        ValueError,
        (f"grad has shape [{B}, {W}, {H}]", f"expected [{B}, {H}, {W}]", "[B, H, W] of p"),
    ),
]

CASES = _cases()
FUNCTIONS = _functions()
# For checks that are slow or do not depend on the options.
ONE_OF_EACH = [f for f in FUNCTIONS if f.given == "groups"]

# Large inputs, for a machine with a GPU.
LARGE = ((8, 67, 61, 59), (5, 256, 33, 31), (33, 96, 16, 16), (2, 1030, 9, 11))
