"""BatchNorm over the images of all processes, on any device and backend.

``torch.nn.SyncBatchNorm`` runs on accelerators alone. Here one all-reduce of ``2 C + 1`` numbers in
float64 carries the counts, sums and sums of squares, so that processes weigh by what they hold, and
one of ``2 C`` the two sums of the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fastalign.distributed.world import World, current
from fastalign.nn.channel_moments import channel_moments, mean_and_variance
from fastalign.ops.layout import accumulation_dtype


class _Normalise(torch.autograd.Function):
    """x normalised by the moments of all processes, which are part of the derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, moments: Tensor, eps: float, world: World) -> Tensor:
        dtype = accumulation_dtype(x.dtype)
        count = moments[:1].clamp_min(1)
        mean, variance = mean_and_variance(moments)
        deviation = (variance + eps).rsqrt().to(dtype)
        ctx.save_for_backward(x, mean.to(dtype), variance.to(dtype), deviation, count.to(dtype))
        ctx.world, ctx.eps = world, eps
        if not len(x):
            return torch.empty_like(x)
        return F.batch_norm(x, mean.to(dtype), variance.to(dtype), eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        x, mean, variance, deviation, count = ctx.saved_tensors
        sums = deviation.new_zeros(2, len(deviation))
        if len(x):
            # As in evaluation: the gradients to weight and bias are sum(grad x^) and sum(grad).
            ones = torch.ones_like(deviation)
            _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
                grad, x, ones, mean, variance, None, None, False, ctx.eps, [False, True, True]
            )
            sums = torch.stack([of_bias, of_weight])
        ctx.world.sum_(sums, "the gradients of BatchNorm")
        of_grad, of_both = (sums / count).unbind()
        # deviation * (grad - of_grad - x^ * of_both), with x^ = (x - mean) * deviation.
        slope = -deviation.square() * of_both
        shape = [1, -1] + [1] * (x.dim() - 2)
        offset = -deviation * of_grad - slope * mean
        result = torch.addcmul(offset.view(shape), grad, deviation.view(shape))
        return result.addcmul_(x, slope.view(shape)).to(x.dtype), None, None, None


class GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm whose statistics in training are those of the images of all processes.

    Parameters, buffers, options and results are those of ``nn.BatchNorm2d`` on the whole batch;
    inputs are ``[B,C,...]``, and B may differ from process to process and be 0. A single vector
    among all processes, which ``nn.BatchNorm2d`` refuses, has no variance and comes out as 0. In
    evaluation, and where there is one process, it is the plain layer.
    """

    world: World | None = None

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(
                f"GlobalBatchNorm: input has shape {list(input.shape)}, expected [B, C, ...]"
            )

    def forward(self, input: Tensor) -> Tensor:
        world = current() if self.world is None else self.world
        if world.size == 1 or not (self.training or self.running_mean is None):
            return super().forward(input)
        self._check_input_dim(input)
        with torch.no_grad():
            moments = world.sum_(channel_moments(input.detach()), "the statistics of BatchNorm")
            if self.training and self.track_running_stats:
                self._remember(moments)
        result = _Normalise.apply(input, moments, self.eps, world)
        if not self.affine:
            return result
        shape = [1, -1] + [1] * (input.dim() - 2)
        return torch.addcmul(self.bias.view(shape), result, self.weight.view(shape)).to(input.dtype)

    def _remember(self, moments: Tensor) -> None:
        """Update the running statistics."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        # None: the mean of all batches so far.
        share = 1 / self.num_batches_tracked.double()
        if self.momentum is not None:
            share.fill_(self.momentum)
        mean, variance = mean_and_variance(moments)
        variance = variance * (moments[0] / (moments[0] - 1).clamp_min(1))
        for running, found in ((self.running_mean, mean), (self.running_var, variance)):
            running.copy_(torch.lerp(running.double(), found, share))


def globalise_norms(module: nn.Module, world: World | None = None) -> nn.Module:
    """Replace every BatchNorm inside ``module`` by a :class:`GlobalBatchNorm` with the same
    parameters and buffers; returns the module, or the new layer where it is a BatchNorm itself.

    Args:
        module: any module; those that are GlobalBatchNorm already stay.
        world: the processes; None: those of the default group at each call.
    """
    for name, child in list(module.named_children()):
        changed = globalise_norms(child, world)
        if changed is not child:
            setattr(module, name, changed)
    plain = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d
    if not isinstance(module, plain):
        return module
    changed = GlobalBatchNorm(
        module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats
    )
    changed.world = world
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        setattr(changed, name, getattr(module, name))
    return changed.train(module.training)
