"""Refinement of poses by Gauss-Newton on correlated edge strength."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from fastalign.nn.registration.encoder import resize
from fastalign.nn.smoothing import smooth
from fastalign.nn.transfer import sent
from fastalign.numeric import LARGEST_ASPECT, LEAST_ASPECT, real_number, whole_number
from fastalign.ops import affine, refine_pose

_SIGMA = 1.0
_NEIGHBOURHOOD = 6.0
_NOISE = 0.01


def edge_strength(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Smoothed gradient magnitude over its local mean: ``[B,3,H,W]`` to ``[B,1,*size]``.

    Gradients forget brightness, the local mean forgets contrast; what stays is where the edges
    are. Ours.
    """
    blurred = smooth(resize(images, size).float(), _SIGMA, border="replicate")
    across = (blurred[..., 2:] - blurred[..., :-2]).square().sum(1, keepdim=True)
    down = (blurred[..., 2:, :] - blurred[..., :-2, :]).square().sum(1, keepdim=True)
    strength = F.pad(across, (1, 1)) + F.pad(down, (0, 0, 1, 1))
    strength = smooth(0.5 * strength.sqrt(), _SIGMA, border="replicate")
    return strength / (smooth(strength, _NEIGHBOURHOOD, border="replicate") + _NOISE)


class GaussNewtonRefiner(nn.Module):
    """A few inverse compositional steps on theta, which raise the correlation with a template: the
    op :func:`fastalign.ops.refine_pose` for one template. Locations from outside the image do not
    count; the others count by ``weight``.

    Arguments:
        template: mean edge strength of aligned images ``[h,w]``.
        weight: ``[h,w]``, at least 0.
        family: transformation family, a key of :data:`fastalign.ops.affine.FAMILIES`.
        aspect: width over height of the images in true units.
        iterations: number of steps.
    """

    template: Tensor
    weight: Tensor
    _generators: Tensor

    def __init__(
        self,
        template: Tensor,
        weight: Tensor,
        family: str,
        *,
        aspect: float = 1.0,
        iterations: int = 8,
    ) -> None:
        super().__init__()
        self.family = family
        self.aspect = real_number(
            "GaussNewtonRefiner: aspect", aspect, LEAST_ASPECT, LARGEST_ASPECT
        )
        self.iterations = whole_number("GaussNewtonRefiner: iterations", iterations, 0, 1000)
        self.register_buffer("template", template)
        self.register_buffer("weight", weight)
        generators = sent(affine.generators(family, self.aspect), template.device)
        self.register_buffer("_generators", generators, persistent=False)

    def correlation(self, edges: Tensor, theta: Tensor) -> Tensor:
        """Correlation with the template at theta, -1 to 1; shapes as in :meth:`forward`."""
        return self._refined(edges, theta, 0)[1]

    def forward(self, edges: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Refine theta ``[B,2,3]``, or K candidates of each image ``[B,K,2,3]``, for edges
        ``[B,1,h,w]`` (see :func:`edge_strength`).

        Returns:
            theta as it was given and the best correlation ``[B]`` or ``[B,K]`` on the way to it,
            which its own is below by less than 1e-4.
        """
        return self._refined(edges, theta, self.iterations)

    def _refined(self, edges: Tensor, theta: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
        beside = self.template, self.weight, self._generators
        if theta.dim() == 3:
            found, best = refine_pose(edges, theta.unsqueeze(1), *beside, iterations)
            return found.squeeze(1), best.squeeze(1)
        return refine_pose(edges, theta, *beside, iterations)

    if TYPE_CHECKING:  # nn.Module types calls as Any
        __call__ = forward
