"""Refinement of poses by Gauss-Newton on correlated edge strength."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastalign.nn.registration.encoder import resize
from fastalign.nn.smoothing import smooth
from fastalign.numeric import LARGEST_ASPECT, LEAST_ASPECT, real_number, whole_number
from fastalign.ops import affine, plain, warp_affine

_SIGMA = 1.0
_NEIGHBOURHOOD = 6.0
_NOISE = 0.01
_DAMPING = 1e-3
# Keeps a template without any edges from a singular system.
_RIDGE = 1e-9
# A pose that leaves less of the template in sight than this is no pose.
_LEAST_COVERED = 0.25
# A step that lowers the correlation by less than this is taken in part, the less of it the more it
# lowers it: a pose then depends on its image without a jump, and not on how sums were rounded.
_TIE = 1e-4


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


def _coordinates(template: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised x and y of each location of ``[h,w]``."""
    y, x = (
        (2 * torch.arange(side, device=template.device) + 1) / side - 1 for side in template.shape
    )
    return x.expand(template.shape), y[:, None].expand(template.shape)


def _steepest(template: Tensor, family: str, aspect: float) -> Tensor:
    """Change of the template with each parameter of the family, at the identity: ``[h*w,P]``."""
    height, width = template.shape
    gx, gy = torch.zeros_like(template), torch.zeros_like(template)
    gx[:, 1:-1] = (template[:, 2:] - template[:, :-2]) * (width / 4)
    gy[1:-1] = (template[2:] - template[:-2]) * (height / 4)
    x, y = _coordinates(template)
    changes = {
        "shift_x": gx,
        "shift_y": gy,
        "angle": gy * x * aspect - gx * y / aspect,
        "log_scale": gx * x + gy * y,
        "log_scale_x": gx * x,
        "log_scale_y": gy * y,
        "shear_x": gx * y / aspect,
        "shear_y": gy * x * aspect,
        "xx": gx * x,
        "xy": gx * y / aspect,
        "yx": gy * x * aspect,
        "yy": gy * y,
    }
    return torch.stack([changes[name] for name in affine.FAMILIES[family]], -1).flatten(0, 1)


def _generators(family: str, aspect: float) -> Tensor:
    """Derivative of the family's maps by each parameter at the identity ``[P,9]``, homogeneous."""
    steps = 1e-4 * torch.eye(affine.number_of_parameters(family), dtype=torch.float64)
    there = affine.from_parameters(steps, family, aspect)
    back = affine.from_parameters(-steps, family, aspect)
    slope = torch.zeros(len(steps), 3, 3)
    slope[:, :2] = (there - back) / 2e-4
    return slope.flatten(1)


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Solutions ``[B,P,1]`` of symmetric, positive definite systems ``[B,P,P]``, ``[B,P,1]``; not
    finite where a matrix is singular."""
    if not plain.active():
        return torch.linalg.solve_ex(matrix, right).result
    # Elimination without pivoting, which such a matrix does not need; at most six unknowns.
    rows = list(torch.cat([matrix, right], 2).unbind(1))
    count = len(rows)
    for pivot in range(count):
        rows[pivot] = rows[pivot] / rows[pivot][:, pivot, None]
        for other in range(count):
            if other != pivot:
                rows[other] = rows[other] - rows[other][:, pivot, None] * rows[pivot]
    return torch.stack(rows, 1)[:, :, -1:]


class GaussNewtonRefiner(nn.Module):
    """A few inverse compositional steps on theta, which raise the correlation with a template.

    The criterion is that of ECC (Evangelidis and Psarakis, PAMI 2008), the steps are those of the
    inverse compositional algorithm (Baker and Matthews, IJCV 2004), whose derivatives are those of
    the template and so are made once. Locations from outside the image do not count; the others
    count by ``weight``.

    Arguments:
        template: mean edge strength of aligned images ``[h,w]``.
        weight: ``[h,w]``, at least 0.
        family: transformation family, a key of :data:`fastalign.ops.affine.FAMILIES`.
        aspect: width over height of the images in true units.
        iterations: number of steps.
    """

    template: Tensor
    weight: Tensor
    _fixed: Tensor
    _with_image: Tensor
    _fixed_wide: Tensor
    _with_image_wide: Tensor
    _grid: Tensor
    _inside: Tensor
    _identity: Tensor
    _generators: Tensor
    _damping: Tensor
    _ridge: Tensor

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
        self._prepare()
        self.register_load_state_dict_post_hook(_prepare_again)

    def _prepare(self) -> None:
        """Everything a step sums over locations and that does not depend on the image:
        ``[h*w, 3+2P+P*P]`` and, for the sums with the image, ``[h*w, 2+P]``."""
        changes = _steepest(self.template, self.family, self.aspect)
        count = changes.shape[1]
        template = self.template.reshape(-1, 1)
        ones = torch.ones_like(template)
        products = (changes[:, :, None] * changes[:, None, :]).flatten(1)
        x, y = _coordinates(self.template)
        height, width = self.template.shape
        derived = {
            "fixed": torch.cat(
                [ones, template, template.square(), changes, template * changes, products], 1
            ),
            "with_image": torch.cat([ones, template, changes], 1),
            "grid": torch.stack([x, y, torch.ones_like(x)]).flatten(1),
            "inside": self.template.new_tensor([[1 - 2 / width], [1 - 2 / height]]),
            "identity": torch.eye(3),
            "generators": _generators(self.family, self.aspect),
            "damping": _DAMPING * torch.eye(count),
            "ridge": _RIDGE * torch.eye(count),
        }
        if template.device.type != "mps":  # which has no float64
            derived |= {f"{name}_wide": derived[name].double() for name in ("fixed", "with_image")}
        for name, value in derived.items():
            self.register_buffer(f"_{name}", value.to(template.device), persistent=False)
        self._split = [1, 1, 1, count, count, count * count]
        self._enough = float(self.weight.sum()) * _LEAST_COVERED

    def _compare(self, edges: Tensor, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Correlation ``[B]``, and the normal equations of the next step: ``[B,P,P]``,
        ``[B,P,1]``."""
        size = tuple(self.template.shape)
        warped = warp_affine(edges, theta, size=size, padding_mode="border").flatten(1)
        # As affine.valid_mask with a margin of one pixel, on a grid that is made once.
        weight = ((theta @ self._grid).abs() <= self._inside).all(1) * self.weight.flatten()
        # Correlations near their maximum differ by less than float32 keeps of such sums.
        fixed, with_image = self._fixed, self._with_image
        if not plain.active() and fixed.device.type != "mps":
            fixed, with_image = self._fixed_wide, self._with_image_wide
            weight, warped = weight.double(), warped.double()
        weighted = weight * warped
        sums, with_image = weight @ fixed, weighted @ with_image
        total = sums[:, :1].clamp_min(1e-12)
        _, template, squared, changes, by_template, products = (sums / total).split(self._split, 1)
        image, both, by_image = (with_image / total).split([1, 1, changes.shape[1]], 1)
        of_image = torch.linalg.vecdot(weighted, warped).unsqueeze(1) / total - image.square()
        of_template = squared - template.square()
        of_image, of_template = of_image.clamp_min(1e-12), of_template.clamp_min(1e-12)
        correlation = (both - image * template) / (of_image * of_template).sqrt()
        # Comparisons with what is not finite are false, so a lost pose is among the unseen.
        seen = (sums[:, :1] > self._enough) & (correlation <= 2)
        correlation = torch.where(seen, correlation, -1.0)
        gain = (of_template / of_image).sqrt()
        descent = gain * (by_image - image * changes) - (by_template - template * changes)
        hessian = products.unflatten(1, (changes.shape[1], -1))
        return correlation.squeeze(1), hessian.float(), descent.float().unsqueeze(2)

    def _move(self, step: Tensor) -> Tensor:
        """The map of a small step in homogeneous coordinates ``[B,3,3]``: the exponential of its
        generator to second order, which is the inverse of that of the opposite step."""
        generator = (step @ self._generators).unflatten(1, (3, 3))
        return self._identity + generator + 0.5 * (generator @ generator)

    def correlation(self, edges: Tensor, theta: Tensor) -> Tensor:
        """Correlation with the template at theta, -1 to 1: ``[B]``."""
        return self._compare(edges, theta)[0].float()

    def forward(self, edges: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Refine theta ``[B,2,3]`` for edges ``[B,1,h,w]`` (see :func:`edge_strength`).

        Returns:
            theta ``[B,2,3]`` and the best correlation ``[B]`` on the way to it, which its own is
            below by less than 1e-4.
        """
        best, best_theta = None, theta
        for iteration in range(self.iterations + 1):
            correlation, hessian, descent = self._compare(edges, theta)
            if best is None:
                best = correlation
            else:
                share = ((correlation - best) / _TIE + 1).clamp(0, 1).float()[:, None, None]
                moved = best_theta + share * (theta - best_theta)
                # A step that is not finite has no share, and must not be multiplied by it.
                best_theta = torch.where(share > 0, moved, best_theta)
                best = torch.where(correlation > best, correlation, best)
            if iteration == self.iterations:
                break
            # Levenberg-Marquardt: the diagonal a little larger.
            damped = torch.addcmul(hessian + self._ridge, hessian, self._damping)
            step = _solve(damped, descent).squeeze(2)
            theta = theta @ self._move(-step)
        assert best is not None
        return best_theta, best.float()

    if TYPE_CHECKING:  # nn.Module types calls as Any
        __call__ = forward


def _prepare_again(refiner: GaussNewtonRefiner, _: object) -> None:
    refiner._prepare()
