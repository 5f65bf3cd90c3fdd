"""Warps and distances touch only what they were given, at any map; without a guard it shows."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
from op_support.cases import CASES, Inputs

from fastalign.kernels import (
    mahalanobis,
    mahalanobis_backward,
    mahalanobis_distance,
    mahalanobis_low_rank,
    warp_affine,
    warp_affine_backward,
    warp_affine_gather,
    warp_affine_taps,
)

pytest.importorskip("triton.runtime.interpreter")
from bounds import OutOfBounds, bordered, watched  # noqa: E402

MODULES = {"mahalanobis": mahalanobis, "warp_affine": warp_affine}

# No block divides any of these.
SHAPE = (3, 5, 3, 7)


def _module(op: str) -> ModuleType | None:
    return next((module for stem, module in MODULES.items() if op.startswith(stem)), None)


def _apart(arguments: tuple[object, ...]) -> list[object]:
    return [bordered(value) if isinstance(value, torch.Tensor) else value for value in arguments]


OWN = [case for case in CASES if _module(case.op) is not None]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", OWN, ids=str)
def test_stays_within_its_tensors(case, layout):
    arguments = _apart(case.make(Inputs(torch.float32, "cpu", layout, SHAPE)))
    with watched() as launched:
        getattr(_module(case.op), case.op)(*arguments)
    assert launched or ("nearest" in case.options and "x=0" in case.options)


NAN = float("nan")
# Rows of theta that send samples anywhere, or nowhere.
MAPS = {
    "far": ((0.9, 0.3, 50.0), (-0.3, 0.8, -1e30)),
    "huge": ((1e30, 1e30, 1e30), (1e30, 1e30, -1e30)),
    "not finite": ((NAN, 0.0, 0.0), (float("inf"), 1.0, 0.0)),
    "one point": ((0.0, 0.0, 0.1), (0.0, 0.0, 0.2)),
    "much smaller": ((9.3, 1.1, 0.0), (-0.7, 8.1, 0.1)),
}


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("rows", MAPS.values(), ids=MAPS)
def test_no_map_leads_out_of_the_tensors(rows, mode, padding):
    x, grad = bordered(torch.randn(1, 2, 5, 9)), bordered(torch.randn(1, 2, 6, 4))
    theta = bordered(torch.tensor([rows]))
    rest = mode, padding, False
    with watched():
        warp_affine.warp_affine(x, theta, (6, 4), *rest)
        warp_affine.warp_affine_backward(grad, x, theta, *rest, True, True, False)


@dataclass(frozen=True)
class Mutant:
    """A function with one guard taken away, and the call that must show it."""

    source: ModuleType
    was: str
    now: str
    function: str
    call: str
    user: ModuleType | None = None  # whose kernel calls it, if another module's does

    def __str__(self) -> str:
        return f"{(self.user or self.source).__name__.rpartition('.')[2]}: {self.was}"


_WARP = "warp_affine(bilinear,zeros)"
_BACK = "warp_affine_backward(bilinear,zeros)"
MUTANTS = [
    Mutant(warp_affine_taps, "(left < in_w - 1)", "(left < in_w)", "find_taps", _WARP, warp_affine),
    Mutant(warp_affine_taps, "(top >= 0)", "(top >= -1)", "find_taps", _WARP, warp_affine),
    Mutant(
        warp_affine_taps, "& (oy < out_h)", "", "find_taps", "warp_affine(same size)", warp_affine
    ),
    Mutant(warp_affine, "channel < end", "channel < end + 1", "_forward", _WARP),
    Mutant(warp_affine_gather, "& (iy < in_h)", "", "_gather", _BACK),
    Mutant(
        warp_affine_taps,
        "(top < in_h - 1)",
        "(top < in_h)",
        "find_taps",
        _BACK,
        warp_affine_backward,
    ),
    Mutant(mahalanobis_distance, "& (row < channels)[:, None]", "", "_distance", "mahalanobis"),
    Mutant(
        mahalanobis_distance,
        "inside = (image < images)[:, None] & here[None, :]",
        "inside = here[None, :]",
        "_distance",
        "mahalanobis",
    ),
    Mutant(
        mahalanobis_backward,
        "mask=present[:, None] & (row < channels)[None, :]",
        "mask=present[:, None]",
        "_input_gradient",
        "mahalanobis_backward(x=1,mean=0,whitener=0)",
    ),
    Mutant(
        mahalanobis_distance,
        "(column[None, :] <= row[:, None]) & (row < channels)[:, None]",
        "column[None, :] <= row[:, None]",
        "triangle",
        "mahalanobis_backward(x=0,mean=0,whitener=1)",
        mahalanobis_backward,
    ),
    Mutant(
        mahalanobis_low_rank,
        "inside = (row < rank)[:, None] & (column < channels)[None, :]",
        "inside = (column < channels)[None, :]",
        "_load_rows",
        "mahalanobis(low rank)",
    ),
    Mutant(
        mahalanobis_low_rank,
        "inside = (row < rank)[:, None] & here[None, :]",
        "inside = here[None, :]",
        "_gradients",
        "mahalanobis_backward(low rank,x=0,mean=0,whitener=1)",
    ),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_missing_guard_is_caught(mutant, monkeypatch, tmp_path):
    text = open(mutant.source.__file__).read()
    assert mutant.was in text
    file = tmp_path / "mutant.py"
    file.write_text(text.replace(mutant.was, mutant.now))
    specification = importlib.util.spec_from_file_location(f"mutant_{id(mutant)}", file)
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, specification.name, module)
    specification.loader.exec_module(module)
    user = mutant.user or mutant.source
    monkeypatch.setattr(user, mutant.function, getattr(module, mutant.function))
    case = next(case for case in CASES if str(case) == mutant.call)
    # Sliced: what follows the end of a row belongs to nobody.
    arguments = _apart(case.make(Inputs(layout="sliced", shape=SHAPE)))
    with watched(), pytest.raises(Exception, match="outside its tensors") as caught:
        getattr(_module(case.op), case.op)(*arguments)
    chain = caught.value
    while chain is not None and not isinstance(chain, OutOfBounds):
        chain = chain.__cause__ or chain.__context__
    assert isinstance(chain, OutOfBounds)
