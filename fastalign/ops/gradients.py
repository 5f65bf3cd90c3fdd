"""The gradient of every op, as autograd asks for it, and the derivative of the gradient.

The op's gradient is the op ``<name>_backward``. That is differentiated through the reference's
derivable form, by torch itself, and so to any order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor

from fastalign.ops import native, reference
from fastalign.ops.declaration import Gradient, Loss, Op, Values
from fastalign.ops.layout import no_gradient

Rule = Callable[..., Any]

# Tells inside a backward pass whether the graph is kept for another one.
_graph_is_kept = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)


def _scaled(stored: Tensor, upstream: Tensor) -> Tensor:
    """``stored * upstream`` for a stored gradient and the 0-dimensional gradient of the loss.

    Where upstream is 1, as it is after ``loss.backward()``, the stored tensor itself is handed
    over, unread; on a GPU a kernel finds out whether it is. If the graph is kept for another pass a
    copy is made, since the receiver may add to what it gets.
    """
    if (
        torch.compiler.is_compiling()
        or type(stored) is not Tensor
        or is_legacy_batchedtensor(upstream)  # by is_grads_batched
    ):
        return stored * upstream
    kept = _graph_is_kept is None or _graph_is_kept()
    # Known without a wait for the device.
    if type(upstream) is Tensor and upstream.is_cpu and upstream.item() == 1:
        return stored.clone() if kept else stored
    if not kept and native.cannot_run("scale_", stored) is None:
        return native.kernel("scale_")(stored, upstream)
    return stored * upstream


def mean(maps: Tensor, sign: int) -> Tensor:
    """The signed mean of a map, 0 where it is empty."""
    number: Any = torch.sym_max(maps.numel(), 1)
    return maps.sum() * (sign / number)


def keep(op: Op) -> Rule:
    """``setup_context`` that keeps all arguments: the tensors, and ``given``, all after them."""
    number = len(op.tensors)

    def setup(ctx: Any, inputs: Values, output: Any) -> None:
        ctx.save_for_backward(*inputs[:number])
        ctx.given = inputs[number:]

    return setup


def kept(op: Op, ctx: Any) -> tuple[list[Any], tuple[Tensor, ...]]:
    """The arguments again, ``backend`` included, and what was saved behind them."""
    # Taken once: a checkpoint computes anew what is asked for a second time.
    saved, number = ctx.saved_tensors, len(op.tensors)
    return [*saved[:number], *ctx.given], saved[number:]


def _call(
    op: Op, backward: Rule, grad: Tensor, values: list[Any], needs: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """The gradients that are needed, None for all other arguments of the map."""
    declared = op.declaration
    given = values[:-1]
    if op.size is not None:
        del given[op.size]
    flags = needs if len(op.derivable) > 1 else ()
    switches = [value() for _, value in declared.switches]
    found = backward(grad, *given, *flags, *switches, values[-1])
    results: list[Tensor | None] = [None] * len(values)
    for place, need, gradient in zip(op.derivable, needs, _as_tuple(found), strict=True):
        results[place] = gradient if need else None
    return tuple(results)


def of_map(op: Op, backward: Rule) -> Rule:
    """The gradients of a map: those that are wanted, by its backward op."""

    def rule(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs = [ctx.needs_input_grad[n] for n in op.derivable]
        return _call(op, backward, grad, kept(op, ctx)[0], needs)

    return rule


def _through_form(
    op: Op, ctx: Any, values: list[Any], upstream: tuple[Tensor, ...]
) -> tuple[Tensor | None, ...]:
    places = [n for n in op.derivable if ctx.needs_input_grad[n]]
    found = pullback(reference.derivable(op.name), values[:-1], places, upstream)
    results: list[Tensor | None] = [None] * len(values)
    for place, value in zip(places, found, strict=True):
        results[place] = value
    return tuple(results)


def of_form(op: Op) -> Rule:
    """The gradients of an op that has no op for them: by torch, through its derivable form."""

    def rule(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return _through_form(op, ctx, kept(op, ctx)[0], upstream)

    return rule


def of_partly(op: Op, backward: Rule) -> Rule:
    """The gradients of a map whose backward op does not have all of its arguments: by that op where
    none of the others is given, else through the derivable form."""
    learning = Op(op.declaration.learning)
    names = [argument.name for argument in op.arguments]
    places = [names.index(argument.name) for argument in learning.arguments]
    others = [n for n in range(len(names)) if n not in places]

    def rule(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, _ = kept(op, ctx)
        if any(values[n] is not None for n in others):
            return _through_form(op, ctx, values, (grad,))
        needs = [ctx.needs_input_grad[places[n]] for n in learning.derivable]
        given = [*(values[n] for n in places), values[-1]]
        results: list[Tensor | None] = [None] * len(values)
        for place, found in zip(
            places, _call(learning, backward, grad, given, needs), strict=False
        ):
            results[place] = found
        return tuple(results)

    return rule


def keep_loss(op: Loss) -> Rule:
    """``setup_context`` of a loss, which has computed its gradients already."""
    setup = keep(op)

    def setup_loss(ctx: Any, inputs: Values, output: tuple[Tensor, ...]) -> None:
        setup(ctx, inputs, output)
        ctx.mark_non_differentiable(*output[1:])
        # Else torch would make a tensor of zeros as the gradient of each stored gradient.
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*[inputs[n] for n in op.tensors], *output[1:])

    return setup_loss


def of_loss(op: Loss, backward: Rule) -> Rule:
    """The stored gradients times the loss's own. Where the result is to be differentiated, they are
    computed anew by the map's backward op, since what is stored has no path to the inputs."""
    of, flags, places = Op(op.declaration), len(op.derivable), op.derivable

    def rule(ctx: Any, upstream: Tensor | None, *unused: Any) -> tuple[Tensor | None, ...]:
        values, stored = kept(op, ctx)
        needed = ctx.needs_input_grad
        wanted = [needed[n] for n in places]
        for place, want, computed in zip(places, wanted, op.needs(values), strict=True):
            if want and not computed:
                name = op.arguments[place].name
                raise RuntimeError(
                    f"fastalign::{op.name} was called with need_{name}=False, but {name} requires "
                    f"a gradient; call it with need_{name}=True"
                )
        results: list[Tensor | None] = [None] * len(values)
        if upstream is None:
            return tuple(results)
        if torch.is_grad_enabled():
            batch, _, height, width = values[0].shape
            share = upstream * (op.declaration.loss / max(batch * height * width, 1))
            grad = share.expand(batch, height, width)
            found = _call(of, backward, grad, [*values[: -1 - flags], values[-1]], wanted)
            return (*found[:-1], *(None for _ in range(flags)), None)
        for place, want, gradient in zip(places, wanted, stored, strict=True):
            if want:
                results[place] = _scaled(gradient, upstream)
        return tuple(results)

    return rule


def pullback(
    function: Callable[..., Any], values: Values, places: Sequence[int], upstream: tuple[Any, ...]
) -> tuple[Tensor, ...]:
    """Gradients of ``function(*values)`` to the values at ``places``; differentiable again."""

    def of(*chosen: Tensor) -> tuple[Tensor, ...]:
        given = list(values)
        for place, value in zip(places, chosen, strict=True):
            given[place] = value
        return _as_tuple(function(*given))

    return torch.func.vjp(of, *(values[n] for n in places))[1](tuple(upstream))


def derivable_gradients(op: Gradient) -> Rule:
    """The backward op, without ``backend``, through the derivable form."""
    of, whole = Op(op.declaration), reference.derivable(op.declaration.name)

    def form(*given: Any) -> Any:
        values = list(given)
        for place in op.declaration.absent:
            values.insert(place, None)
        return whole(*values)

    def gradients(*values: Any) -> tuple[Tensor, ...]:
        grad, given = values[0], list(values[1:])
        if of.size is not None:
            given.insert(of.size, grad.shape[2:])
        given = given[: len(of.arguments)]
        needs = op.needs(values)
        places = [place for place, need in zip(of.derivable, needs, strict=True) if need]
        found = iter(pullback(form, given, places, (grad,)) if places else ())
        pairs = zip(of.derivable, needs, strict=True)
        return tuple(next(found) if need else no_gradient(given[n]) for n, need in pairs)

    return gradients


def of_gradient(op: Gradient) -> Rule:
    """The derivative of a backward op."""
    gradients = derivable_gradients(op)

    def rule(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        values, _ = kept(op, ctx)
        asked = [n for n, need in enumerate(op.needs(values[:-1])) if need]
        places = [n for n in (0, *op.derivable) if ctx.needs_input_grad[n]]
        results: list[Tensor | None] = [None] * len(values)
        if asked and places:

            def wanted(*given: Any) -> tuple[Tensor, ...]:
                found = gradients(*given)
                return tuple(found[n] for n in asked)

            found = pullback(wanted, values[:-1], places, tuple(upstream[n] for n in asked))
            for place, value in zip(places, found, strict=True):
                results[place] = value
        return tuple(results)

    return rule


def _as_tuple(found: Any) -> tuple[Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)
