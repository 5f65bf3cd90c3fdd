"""The public functions with every option, each with its definition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastalign import ops
from op_support import definitions
from op_support.cases import OTHER_SIZE, Inputs


@dataclass(frozen=True)
class Function:
    """A public function of tensors with one choice of its options."""

    name: str
    make: Callable[[Inputs], tuple[Tensor | None, ...]]  # the tensors, in order
    definition: Callable[..., Tensor]  # of the tensors, the options and a dtype
    derivable: tuple[int, ...]  # which of the tensors may require a gradient
    options: dict[str, object] = field(default_factory=dict)
    given: str = ""  # which optional tensors are there

    def __str__(self) -> str:
        flags = [key for key, value in self.options.items() if value is True]
        words = [value for value in self.options.values() if isinstance(value, str)]
        text = ",".join([*words, *flags, *([self.given] if self.given else [])])
        return f"{self.name}({text})" if text else self.name

    def __call__(self, *tensors: Tensor | None, backend: str | None = None) -> Tensor:
        return getattr(ops, self.name)(*tensors, **self.options, backend=backend)

    def defined(self, *tensors: Tensor | None, dtype: torch.dtype = torch.float64) -> Tensor:
        """The result by definition, computed in ``dtype``."""
        return self.definition(*tensors, **self.options, dtype=dtype)


def _negative_mean(definition: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *tensors, **options: -definition(*tensors, **options).mean()


def _mean(definition: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *tensors, **options: definition(*tensors, **options).mean()


def _similarity() -> list[Function]:
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
            ("dense_similarity", definitions.dense_similarity),
            ("dense_similarity_loss", _negative_mean(definitions.dense_similarity)),
        )
        for grouped in (False, True)
    ]


def _distance() -> list[Function]:
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
            ("pairwise_distance", definitions.pairwise_distance),
            ("pairwise_distance_loss", _mean(definitions.pairwise_distance)),
        )
        for squared in (False, True)
        for masked, grouped in ((False, False), (True, False), (False, True), (True, True))
    ]


def _warp() -> list[Function]:
    return [
        Function(
            "warp_affine",
            lambda i: (i.features(), i.theta()),
            definitions.warp_affine,
            (0, 1),
            {"size": OTHER_SIZE, "mode": mode, "padding_mode": padding, "align_corners": corners},
        )
        for mode in ("bilinear", "nearest")
        for padding in ("zeros", "border", "reflection")
        for corners in (False, True)
    ]


def _mahalanobis() -> list[Function]:
    return [
        Function(
            "mahalanobis",
            lambda i: (i.features(), i.mean(), i.whitener()),
            definitions.mahalanobis,
            (0, 1, 2),
            {"squared": squared},
        )
        for squared in (False, True)
    ]


FUNCTIONS = [*_similarity(), *_distance(), *_warp(), *_mahalanobis()]

# One of each, for checks that are slow or do not depend on the options.
ONE_OF_EACH = [
    function
    for function in FUNCTIONS
    if str(function)
    in (
        "dense_similarity(groups)",
        "dense_similarity_loss(groups)",
        "pairwise_distance(mask,groups)",
        "pairwise_distance_loss(mask,groups)",
        "warp_affine(bilinear,zeros)",
        "mahalanobis",
    )
]


def require_gradients(
    function: Function, tensors: tuple[Tensor | None, ...], which: tuple[int, ...] | None = None
) -> list[Tensor]:
    """Let the derivable tensors (or those numbered ``which``) require gradients; returns them."""
    chosen = [tensors[n] for n in (function.derivable if which is None else which)]
    return [tensor.requires_grad_() for tensor in chosen if tensor is not None]
