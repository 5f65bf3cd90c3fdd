"""Inputs for every op and option: one list that generic tests walk over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastalign.ops import affine
from op_support.layouts import LAYOUTS, strided

Arguments = tuple[object, ...]

# Odd sizes that no vector width divides; B has groups of one, two and three images.
SHAPE = (6, 7, 5, 9)
GROUPS = (4, -2, 4, 9, 4, -2)
HALVES = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, torch.float64, *HALVES)


def accumulation(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


class Inputs:
    """Random tensors of one shape, dtype, device and layout, the same for the same seed."""

    def __init__(
        self,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        layout: str = "contiguous",
        shape: tuple[int, int, int, int] = SHAPE,
        seed: int = 0,
    ) -> None:
        self.dtype, self.device, self.layout, self.shape = dtype, device, layout, shape
        self.generator = torch.Generator().manual_seed(seed)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def _lay(self, values: Tensor) -> Tensor:
        """Into the layout: of maps as it says, of other tensors strided unless contiguous."""
        values = values.to(self.device)
        if values.dim() == 4:
            return LAYOUTS[self.layout](values)
        return values if self.layout == "contiguous" else strided(values)

    def features(self) -> Tensor:
        return self._lay(self._normal(*self.shape).to(self.dtype))

    def other_size(self, height: int, width: int) -> Tensor:
        return self._lay(self._normal(*self.shape[:2], height, width).to(self.dtype))

    def location_gradient(self) -> Tensor:
        batch, _, height, width = self.shape
        return self._lay(self._normal(batch, height, width).to(accumulation(self.dtype)))

    def groups(self) -> Tensor:
        repeated = [GROUPS[i % len(GROUPS)] for i in range(self.shape[0])]
        return self._lay(torch.tensor(repeated, dtype=torch.int64))

    def mask(self) -> Tensor:
        batch, _, height, width = self.shape
        return self._lay(torch.rand(batch, height, width, generator=self.generator) > 0.3)

    def theta(self, dtype: torch.dtype | None = None, size: float = 0.2) -> Tensor:
        """Maps turned, scaled, sheared, shifted, partly out of the image."""
        offset = self._normal(self.shape[0], 6) * size
        theta = affine.from_parameters(offset, "affine")
        return self._lay(theta.to(dtype or accumulation(self.dtype)))

    def mean(self) -> Tensor:
        return self._lay(self._normal(*self.shape[1:]).to(accumulation(self.dtype)))

    def whitener(self, dtype: torch.dtype | None = None) -> Tensor:
        _, channels, height, width = self.shape
        packed = self._normal(height * width, channels * (channels + 1) // 2)
        return self._lay(packed.to(dtype or accumulation(self.dtype)))


@dataclass(frozen=True)
class Case:
    """An op with one choice of options; ``make`` gives the schema's arguments before backend."""

    op: str
    options: str
    make: Callable[[Inputs], Arguments]

    def __str__(self) -> str:
        return f"{self.op}({self.options})" if self.options else self.op


def _similarity() -> list[Case]:
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


def _distance() -> list[Case]:
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


# Output sizes: the input's own, and one that is neither larger nor smaller on both axes.
OTHER_SIZE = (8, 4)


def _warp() -> list[Case]:
    name = "warp_affine"
    cases = []
    for mode in ("bilinear", "nearest"):
        for padding in ("zeros", "border", "reflection"):
            for corners in (False, True):
                words = f"{mode},{padding}{',align_corners' if corners else ''}"
                rest = mode, padding, corners
                cases += [
                    Case(
                        name,
                        words,
                        lambda i, rest=rest: (i.features(), i.theta(), OTHER_SIZE, *rest),
                    ),
                    Case(
                        f"{name}_backward",
                        words,
                        lambda i, rest=rest: (
                            i.other_size(*OTHER_SIZE),
                            i.features(),
                            i.theta(),
                            *rest,
                            True,
                            True,
                            False,
                        ),
                    ),
                ]
    bilinear = "bilinear", "zeros", False
    cases += [
        Case(name, "same size", lambda i: (i.features(), i.theta(), i.shape[2:], *bilinear)),
        Case(
            name,
            "float64 theta",
            lambda i: (i.features(), i.theta(torch.float64), OTHER_SIZE, *bilinear),
        ),
    ]
    for need_x, need_theta, deterministic in ((True, False, True), (False, True, True)):
        cases.append(
            Case(
                f"{name}_backward",
                f"x={need_x:d},theta={need_theta:d},deterministic",
                lambda i, flags=(need_x, need_theta, deterministic): (
                    i.other_size(*OTHER_SIZE),
                    i.features(),
                    i.theta(),
                    *bilinear,
                    *flags,
                ),
            )
        )
    return cases


def _mahalanobis() -> list[Case]:
    name = "mahalanobis"
    cases = []
    for squared in (False, True):
        options = "squared" if squared else ""
        cases += [
            Case(
                name,
                options,
                lambda i, s=squared: (i.features(), i.mean(), i.whitener(), s),
            ),
            Case(
                f"{name}_backward",
                options,
                lambda i, s=squared: (
                    i.location_gradient(),
                    i.features(),
                    i.mean(),
                    i.whitener(),
                    s,
                    True,
                    True,
                    True,
                ),
            ),
        ]
    for need in ((True, False, False), (False, True, False), (False, False, True)):
        cases.append(
            Case(
                f"{name}_backward",
                "x={:d},mean={:d},whitener={:d}".format(*need),
                lambda i, need=need: (
                    i.location_gradient(),
                    i.features(),
                    i.mean(),
                    i.whitener(),
                    False,
                    *need,
                ),
            )
        )
    return cases


CASES = [*_similarity(), *_distance(), *_warp(), *_mahalanobis()]


def short(dtype: torch.dtype) -> str:
    """``torch.float32`` as ``float32``, for test names."""
    return str(dtype).removeprefix("torch.")


def as_tuple(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def exact(case_arguments: Arguments) -> Arguments:
    """The same values in float64 on the CPU, for the exact result."""
    return tuple(
        value.detach().cpu().double()
        if isinstance(value, Tensor) and value.is_floating_point()
        else (value.cpu() if isinstance(value, Tensor) else value)
        for value in case_arguments
    )


def narrowed(case_arguments: Arguments) -> Arguments:
    """The same arguments with float64 tensors rounded to float32."""
    return tuple(
        value.float() if isinstance(value, Tensor) and value.dtype == torch.float64 else value
        for value in case_arguments
    )
