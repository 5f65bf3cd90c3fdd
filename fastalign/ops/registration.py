"""Makes the ops of a declaration known to torch: schema, fake, autocast, gradient, torch.func."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastalign.ops import gradients, plain, reference
from fastalign.ops.backends import resolve
from fastalign.ops.declaration import Declaration, Gradient, Loss, Op, Values
from fastalign.ops.direct import short_way
from fastalign.ops.layout import no_gradient
from fastalign.ops.schema import NAMESPACE, add
from fastalign.ops.transforms import transformed

_AUTOCAST_DEVICES = ("cpu", "cuda")

# Torch takes the registrations back when this object goes.
_library = torch.library.Library(NAMESPACE, "DEF")

Function = Callable[..., Any]


class Family:
    """The functions of one declaration; they take the schema's arguments, ``backend`` included."""

    def __init__(self, declared: Declaration) -> None:
        self.name = declared.name
        op, gradient, loss = Op(declared), Gradient(declared.learning), Loss(declared)
        self._sign, self._places = declared.loss, op.derivable
        add(op)
        plainly, form = reference.plain(self.name), reference.derivable(self.name)
        if declared.backward:
            add(gradient)
            setup, rule = gradients.keep(gradient), gradients.of_gradient(gradient)
            twice = gradients.derivable_gradients(gradient)
            backward = _made(gradient, setup, rule, transformed(gradient, setup, rule, twice))
            by_op = gradients.of_partly if declared.inference else gradients.of_map
            setup, rule = gradients.keep(op), by_op(op, backward)
        else:
            setup, rule = gradients.keep(op), gradients.of_form(op)
        under_func = transformed(op, setup, rule, form)
        self._map = _made(op, setup, rule, under_func, plainly, form)
        if declared.loss:
            add(loss)
            setup, rule = gradients.keep_loss(loss), gradients.of_loss(loss, backward)
            overload = getattr(getattr(torch.ops, NAMESPACE), op.name).default
            under_func = self._mean_of(overload, loss, backend=True)
            forms = (self._mean_of(one, loss) for one in (plainly, form))
            self._loss = _made(loss, setup, rule, under_func, *forms)

    def __call__(self, *values: Any) -> Any:
        """The op."""
        return self._map(*values)

    def loss(self, *values: Any) -> Tensor:
        """The signed mean of the op, from the op's own arguments.

        Its gradients are made in the same pass, but for float16: the gradient of a mean lies below
        its range, and a gradient scaler must be able to scale it before it is rounded.
        """
        learns = torch.is_grad_enabled()
        # What is no tensor is for the op's own check to name.
        given = [values[place] for place in self._places]
        needs = [learns and isinstance(value, Tensor) and value.requires_grad for value in given]
        if True in needs and all([getattr(v, "dtype", None) == torch.float16 for v in given]):
            return gradients.mean(self(*values), self._sign)
        loss: Tensor = self._loss(*values[:-1], *needs, values[-1])
        return loss

    def _mean_of(self, function: Function, loss: Loss, backend: bool = False) -> Function:
        """The loss op by way of a function for its map, which takes a backend or not."""
        count = len(loss.declaration.arguments)

        def composed(*values: Any) -> tuple[Tensor, ...]:
            maps = function(*values[:count], *(values[-1:] if backend else ()))
            stored = (no_gradient(values[place]) for place in loss.derivable)
            return gradients.mean(maps, self._sign), *stored

        return composed


declare = Family


def _made(
    op: Op, setup: Function, rule: Function, under_func: Function, *forms: Function
) -> Function:
    """Make the op known to torch; returns what calls it, for a loss without its gradients.

    Args:
        op: its declaration.
        setup, rule: ``setup_context`` and ``backward`` of its gradient.
        under_func: what a transform of torch.func calls in place of the op, before it looks into
            it; takes all arguments.
        forms: where there are, the op without ``backend`` in ops of torch's own, plainly and
            derivable.
    """
    # The layout of an output follows from that of its input, so compilers must keep the strides
    # that the fake has seen.
    tags = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)
    _library.define(op.name + op.schema, tags=tags)
    overload = getattr(getattr(torch.ops, NAMESPACE), op.name).default
    filled, chosen, name = _filler(overload), itemgetter(*op.derivable), op.name
    several, check = len(op.derivable) > 1, op.check
    partly = any(op.arguments[place].default == "None" for place in op.derivable)

    def choose(values: Values, looks: Any = None) -> Function:
        check(values)
        tensors = chosen(values) if several else (chosen(values),)
        if partly:
            tensors = tuple(tensor for tensor in tensors if tensor is not None)
        return resolve(name, values[-1], *tensors, looks=looks)

    def run(*given: Any) -> Any:
        values = filled(given)
        return choose(values)(*values[:-1])

    def fake(*given: Any) -> Any:
        values = filled(given)
        check(values)
        return op.empty(values)

    _library.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_library)
    for device in _AUTOCAST_DEVICES:
        _library.impl(
            name, _below_autocast(op, device, overload, filled), f"Autocast{device.upper()}"
        )
    torch.library.register_autograd(f"{NAMESPACE}::{name}", rule, setup_context=setup, lib=_library)
    # The checks come here as well: inside, shapes have a dimension more.
    _library.impl(
        name,
        lambda *given: _uncast(op, filled(given), under_func),
        "FuncTorchDynamicLayerFrontMode",
    )
    return short_way(op, choose, rule, _long_way(op, overload, forms))


def _filler(overload: Any) -> Callable[[Values], Values]:
    """Puts the defaults back that the dispatcher leaves out at the end."""
    defaults = [argument.default_value for argument in overload._schema.arguments]
    count = len(defaults)
    return lambda given: given if len(given) == count else (*given, *defaults[len(given) :])


def _below_autocast(op: Op, device: str, call: Function, filled: Function) -> Function:
    """The call without autocast inside: a reference made of torch's own ops must not be cast.

    ``torch.library.register_autocast`` casts every tensor to one fixed dtype, which would take
    theta's precision away.
    """

    def cast(*values: Any) -> Any:
        with torch.autocast(device, enabled=False):
            return call(*op.cast(filled(values)))

    return cast


def _uncast(op: Op, values: Values, call: Function) -> Any:
    """``call(*values)`` for checked values, as autocast wants them but without it inside."""
    device = values[op.first].device.type
    if torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            return _uncast(op, op.cast(values), call)
    op.check(values)
    return call(*values)


def _long_way(op: Op, overload: Function, forms: Sequence[Function]) -> Function:
    """The op by way of torch, for calls that something looks into or that take another form."""
    first_only = isinstance(op, Loss)

    def through(values: Values) -> Any:
        if forms and plain.active():
            return _uncast(op, values, lambda *given: forms[0](*given[:-1]))
        # This stands before the dispatcher, which would drop the tangents without a word.
        if forms and forward_ad._current_level >= 0 and _has_tangents(values):
            return _uncast(op, values, lambda *given: forms[1](*given[:-1]))
        # A subclass that knows nothing of the op would answer before it is looked at.
        if any(getattr(values[place], "is_nested", False) for place in op.tensors):
            op.check(values)
        return overload(*values)

    def called(*values: Any) -> Any:
        found = through(values)
        return found[0] if first_only else found

    return called


def _has_tangents(values: Values) -> bool:
    return any(
        isinstance(value, Tensor) and forward_ad.unpack_dual(value).tangent is not None
        for value in values
    )
