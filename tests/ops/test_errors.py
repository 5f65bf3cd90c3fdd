"""Wrong arguments: the message names the argument, what was given and what was expected.

The checks are the same for every backend, so the table runs once; the fakes must refuse the same.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable

import pytest
import torch
from op_support import wrong
from op_support.functions import ONE_OF_EACH, Function
from op_support.inputs import Inputs
from op_support.kinds import Row
from op_support.stems import each
from torch._subclasses import FakeTensorMode

from fastalign import ops

ROWS = [row for module in each() for row in module.WRONG]


def _call(name: str, *arguments: object) -> object:
    """The function of arguments, the last of which may be those that go by name."""
    function = getattr(ops, name, None) or getattr(torch.ops.fastalign, name)
    if isinstance(arguments[-1], dict):
        return function(*arguments[:-1], **arguments[-1])
    return function(*arguments)


def _refused(call: Callable[[], object], error: type[Exception], parts: tuple[str, ...]) -> None:
    with pytest.raises(error) as caught:
        call()
    for part in parts:
        assert re.search(re.escape(part), str(caught.value)), f"{part!r} not in: {caught.value}"


def _row_name(row: Row) -> str:
    return f"{row[0]}-{row[3][0]}"


@pytest.mark.parametrize("row", ROWS, ids=_row_name)
def test_wrong_arguments(row):
    name, make, error, parts = row
    op = name.removesuffix("_backward").removesuffix("_loss")
    _refused(lambda: _call(name, *make()), error, (f"{op}: ", *parts))


@pytest.mark.parametrize("row", ROWS, ids=_row_name)
def test_wrong_arguments_while_tracing(row):
    name, make, error, parts = row
    with FakeTensorMode():
        _refused(lambda: _call(name, *make()), error, parts)


def _companions() -> list[tuple[Function, int, str, str]]:
    """Each tensor beside the first: its place, its name, and that of the first."""
    found = []
    for function in ONE_OF_EACH:
        names = list(inspect.signature(getattr(ops, function.name)).parameters)
        places = range(1, len(function.make(Inputs())))
        found += [(function, place, names[place], names[0]) for place in places]
    return found


@pytest.mark.parametrize(("function", "place", "argument", "first"), _companions(), ids=str)
def test_tensors_on_two_devices(function, place, argument, first):
    """The second device is torch's meta device, which every machine has."""
    tensors = list(function.make(Inputs()))
    tensors[place] = tensors[place].to("meta")
    _refused(
        lambda: function(*tensors),
        ValueError,
        (f"{argument} is on meta", f"expected cpu where {first} is", f"{argument}.to({first}."),
    )


def test_no_op_takes_what_is_no_tensor():
    """torch's own message, which names the argument as well."""
    with pytest.raises(RuntimeError, match="'p' must be|argument 'p'"):
        ops.dense_similarity([1.0], wrong.features())
