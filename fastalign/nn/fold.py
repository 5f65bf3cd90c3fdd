"""Folding of BatchNorm into the convolution before it, for inference.

Which normalisation follows which convolution is observed on one small forward pass rather than
guessed from names, and the result is compared with the network before folding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from fastalign.nn.state import made_in_own_state


class _Uses(TorchFunctionMode):
    """Notes which tensors functions are called with, as long as it is not told to look away."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()
        self.looking = True

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # Reading an attribute such as the shape uses no value.
        if self.looking and getattr(func, "__name__", "") != "__get__":
            self.seen |= {id(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        return func(*args, **kwargs)


def sole_successors(
    network: nn.Module,
    run: Callable[[], list[Tensor]],
    before: Callable[[nn.Module], bool],
    after: Callable[[nn.Module], bool],
) -> list[tuple[nn.Module, nn.Module]]:
    """Pairs of modules in which the very output tensor of the first one is the input of the second,
    and nobody else's; both are called once.

    Arguments:
        run: one forward pass, which returns the outputs.
        before, after: which modules may be the first and the second of a pair. What changes its
            input in place is seen as nobody's.
    """
    uses = _Uses()
    produced: dict[int, tuple[nn.Module, Tensor]] = {}
    pairs: list[tuple[nn.Module, Tensor, nn.Module]] = []
    calls: Counter[nn.Module] = Counter()

    def entered(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[module] += 1
        if after(module):
            found = produced.get(id(inputs[0]))
            if found is not None:
                pairs.append((*found, module))
            uses.looking = False

    def left(module: nn.Module, _: object, output: Tensor) -> None:
        uses.looking = True
        if before(module):
            # The tensor is kept so that no later one can take its identity.
            produced[id(output)] = (module, output)
            uses.seen.discard(id(output))

    handles = []
    for module in network.modules():
        if before(module) or after(module):
            handles.append(module.register_forward_pre_hook(entered))
            handles.append(module.register_forward_hook(left))
    try:
        with uses:
            outputs = run()
    finally:
        for handle in handles:
            handle.remove()
    elsewhere = uses.seen | {id(output) for output in outputs}
    taken = Counter(id(output) for _, output, _ in pairs)
    return [
        (first, second)
        for first, output, second in pairs
        if calls[first] == calls[second] == taken[id(output)] == 1 and id(output) not in elsewhere
    ]


def _consumers(
    network: nn.Module, run: Callable[[], list[Tensor]]
) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    return [
        (convolution, normalisation)
        for convolution, normalisation in sole_successors(
            network,
            run,
            lambda module: isinstance(module, nn.Conv2d),
            lambda module: isinstance(module, nn.BatchNorm2d) and _is_known(module),
        )
        if isinstance(convolution, nn.Conv2d) and isinstance(normalisation, nn.BatchNorm2d)
    ]


def _is_known(module: nn.BatchNorm2d) -> bool:
    """Plain BatchNorm with running statistics, alone or with timm's activation behind it."""
    has_statistics = module.running_mean is not None and module.running_var is not None
    return has_statistics and (type(module) is nn.BatchNorm2d or hasattr(module, "act"))


def _remainder(normalisation: nn.BatchNorm2d) -> nn.Module:
    """What is left of a normalisation once its affine map is gone: nothing, or its activation."""
    parts = [
        part
        for name in ("drop", "act")
        if isinstance(part := getattr(normalisation, name, None), nn.Module)
        and not isinstance(part, nn.Identity)
    ]
    if not parts:
        return nn.Identity()
    return parts[0] if len(parts) == 1 else nn.Sequential(*parts)


def _fold_pair(convolution: nn.Conv2d, normalisation: nn.BatchNorm2d) -> None:
    mean, variance = normalisation.running_mean, normalisation.running_var
    assert mean is not None and variance is not None
    scale = (variance.double() + normalisation.eps).rsqrt()
    if normalisation.weight is not None:
        scale = scale * normalisation.weight.detach().double()
    shift = -mean.double() * scale
    if normalisation.bias is not None:
        shift = shift + normalisation.bias.detach().double()
    if convolution.bias is not None:
        shift = shift + convolution.bias.detach().double() * scale
    weight = convolution.weight
    folded = (weight.detach().double() * scale.view(-1, 1, 1, 1)).to(weight.dtype)
    weight.data.copy_(folded)
    convolution.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=weight.requires_grad)


@made_in_own_state
@torch.no_grad()
def fold_batch_norm(network: nn.Module, run: Callable[[], list[Tensor]]) -> int:
    """Fold every foldable BatchNorm of ``network`` in place; returns how many there were.

    ``run`` makes one forward pass in evaluation mode and returns the outputs.

    Raises:
        RuntimeError: the folded network computes something else, because a convolution's output
            is used outside its normalisation in a way that could not be seen; the network is
            spoiled.
    """
    before = [output.clone() for output in run()]
    pairs = _consumers(network, run)
    folded = {normalisation: convolution for convolution, normalisation in pairs}
    for normalisation, convolution in folded.items():
        _fold_pair(convolution, normalisation)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and child in folded:
                setattr(parent, name, _remainder(child))
    for given, expected in zip(run(), before, strict=True):
        error = (given - expected).abs().max()
        if not error <= 1e-3 * expected.abs().max().clamp_min(1e-6):
            raise RuntimeError(
                "folding BatchNorm changed this network's output: a convolution's result is used "
                "beside its BatchNorm; use it unfolded"
            )
    return len(folded)
