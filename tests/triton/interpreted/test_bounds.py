"""No kernel touches memory that it was not given; with a mask taken away it is caught."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, replace
from types import ModuleType

import pytest
import torch
from op_support.cases import CASES, Case, Inputs

from fastalign.kernels import (
    common,
    dense_long,
    dense_plan,
    dense_similarity,
    dense_sums,
    dense_whole,
    pairwise_colours,
    pairwise_distance,
    pairwise_parts,
    pairwise_vectors,
)
from fastalign.ops.schema import stem_of

pytest.importorskip("triton.runtime.interpreter")
from bounds import OutOfBounds, bordered, watched  # noqa: E402

MODULES = {"dense_similarity": dense_similarity, "pairwise_distance": pairwise_distance}

# No block divides any of these.
SHAPE = (5, 5, 3, 7)
COLOURS = (9, 3, 3, 7)


def _module(op: str) -> ModuleType:
    return MODULES[stem_of(op)]


def _apart(arguments: tuple[object, ...]) -> list[object]:
    return [bordered(value) if isinstance(value, torch.Tensor) else value for value in arguments]


def _named(name: str) -> Case:
    return next(case for case in CASES if str(case) == name)


ALL_GUARDED = [
    *((case, SHAPE, "contiguous") for case in CASES if case.op.startswith("dense")),
    *((case, COLOURS, "contiguous") for case in CASES if case.op.startswith("pairwise")),
    *(
        (_named(name), SHAPE, "contiguous")
        for name in (
            "pairwise_distance_loss",
            "pairwise_distance_backward(mask,groups)",
            "pairwise_distance(squared,mask)",
        )
    ),
    *(
        (_named(name), shape, layout)
        for layout in ("channels_last", "sliced")
        for name, shape in (
            ("dense_similarity_loss(groups,p=1,z=1)", SHAPE),
            ("pairwise_distance_loss(mask,groups)", COLOURS),
            ("pairwise_distance_loss(mask,groups)", SHAPE),
        )
    ),
]


@pytest.mark.parametrize(("case", "shape", "layout"), ALL_GUARDED, ids=str)
def test_stays_within_its_tensors(case, shape, layout):
    arguments = _apart(case.make(Inputs(torch.float32, "cpu", layout, shape)))
    with watched() as launched:
        getattr(_module(case.op), case.op)(*arguments)
    assert launched


@pytest.mark.parametrize("grouped", [False, True])
def test_long_vectors_stay_within_their_tensors(grouped, monkeypatch):
    monkeypatch.setattr(dense_plan, "LONGEST", 2)
    monkeypatch.setattr(dense_plan, "_BLOCK", 4)
    inputs = Inputs(shape=SHAPE)
    p, z, labels = inputs.features(), inputs.features(), inputs.groups() if grouped else None
    p, z = bordered(p), bordered(z)
    with watched() as launched:
        dense_similarity.dense_similarity_loss(p, z, labels, True, True)
    assert "looped_kernel" in launched


@dataclass(frozen=True)
class Mutant:
    """A kernel with one guard taken away, and the call that must show it."""

    source: ModuleType
    was: str
    now: str
    kernel: str
    host: ModuleType
    call: str
    shape: tuple[int, int, int, int] = SHAPE
    looped: bool = False

    def __str__(self) -> str:
        return f"{self.kernel}: {self.was.strip().splitlines()[0]}"


_LOSS = "dense_similarity_loss(groups,p=1,z=1)"
_PLAIN = "dense_similarity_loss(p=1,z=0)"
_WHOLE = Mutant(dense_whole, "", "", "similarity_kernel", dense_similarity, _LOSS)
# Of functions in files of their own, as the kernel's file uses them.
_TILE = replace(_WHOLE, source=dense_sums, kernel="own_tile", host=dense_whole)
_LOAD = replace(
    _WHOLE,
    source=common,
    was="(place, image), mask=exists, other=0)",
    now="(place, image))",
    kernel="load_at",
    host=dense_whole,
    call="dense_similarity_backward(p=1,z=0)",
)
_SUMS = replace(_WHOLE, source=dense_sums, kernel="partial_sums_kernel", call=_PLAIN)
_COLOURS = Mutant(
    pairwise_colours,
    "",
    "",
    "colours_kernel",
    pairwise_distance,
    "pairwise_distance_loss",
    COLOURS,
)
MUTANTS = [
    replace(_TILE, was="exists = x < locations", now="exists = x >= 0"),
    replace(_TILE, was="(c < channels)", now="(c >= 0)"),
    replace(_WHOLE, was="last = min(place + chunk, images)", now="last = place + chunk"),
    replace(
        _WHOLE,
        was="gradient, mask=inside, eviction_policy",
        now="gradient, eviction_policy",
    ),
    _LOAD,
    replace(
        _WHOLE,
        source=dense_sums,
        was="pointers, mask=inside, other=0",
        now="pointers",
        kernel="unit_at",
        host=dense_whole,
    ),
    replace(_SUMS, was="sums, mask=inside)", now="sums)"),
    replace(_SUMS, was="min(first + chunk, images)", now="first + chunk"),
    replace(
        _WHOLE,
        source=dense_long,
        was="(c < channels)[:, None] & exists",
        now="(c >= 0)[:, None] & exists",
        kernel="looped_kernel",
        looped=True,
    ),
    replace(_COLOURS, was="exists = (a < images) & here", now="exists = (a >= 0) & here"),
    replace(_COLOURS, was="here = x < locations", now="here = x >= 0"),
    replace(
        _COLOURS,
        source=pairwise_vectors,
        was="(c < channels)[:, None] & here",
        now="(c >= 0)[:, None] & here",
        kernel="vectors_kernel",
        shape=SHAPE,
    ),
    replace(
        _COLOURS,
        source=pairwise_vectors,
        was="exists = x < locations",
        now="exists = x >= 0",
        kernel="vectors_kernel",
        shape=SHAPE,
    ),
    replace(
        _COLOURS,
        source=pairwise_parts,
        was="exists = x < locations",
        now="exists = x >= 0",
        kernel="_share_kernel",
        host=pairwise_parts,
        call="pairwise_distance_loss(mask,groups)",
    ),
    replace(
        _COLOURS,
        source=common,
        was="mask=first + lane < number",
        now="mask=lane >= 0",
        kernel="_sum_kernel",
        host=common,
    ),
    replace(
        _WHOLE,
        source=common,
        was="exists = other < images",
        now="exists = other >= 0",
        kernel="_group_kernel",
        host=common,
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
    monkeypatch.setattr(mutant.host, mutant.kernel, getattr(module, mutant.kernel))
    if mutant.looped:
        monkeypatch.setattr(dense_plan, "LONGEST", 2)
        monkeypatch.setattr(dense_plan, "_BLOCK", 4)
    case = _named(mutant.call)
    arguments = _apart(case.make(Inputs(shape=mutant.shape)))
    with watched(), pytest.raises(Exception, match="outside its tensors") as caught:
        getattr(_module(case.op), case.op)(*arguments)
    chain = caught.value
    while chain is not None and not isinstance(chain, OutOfBounds):
        chain = chain.__cause__ or chain.__context__
    assert isinstance(chain, OutOfBounds)
