"""The first room: where the part lies in each image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from fastalign.models.names import under
from fastalign.nn.backbone import FeatureBackbone
from fastalign.nn.fitted_gaussian import keeping_dtypes
from fastalign.nn.registration.aligner import TemplateAligner, edge_size
from fastalign.nn.registration.encoder import LocalEncoder, resize
from fastalign.nn.registration.refiner import GaussNewtonRefiner, edge_strength
from fastalign.nn.spatial_align import SpatialAlign
from fastalign.nn.state import in_own_state
from fastalign.numeric import LARGEST_ASPECT, LEAST_ASPECT, real_number
from fastalign.ops import affine

# Bounds of the plain image-level warp.
_BOUNDS: dict[str, Any] = {"max_shift": 0.25, "max_angle": 60.0, "max_scale": 1.5}


def make_encoder(backbone: FeatureBackbone) -> LocalEncoder:
    """An unfitted encoder for poses, with its own copy of the backbone's early layers."""
    # As fine as a pose needs; deeper layers know less about where.
    depth = max([i for i, stride in enumerate(backbone.reductions) if stride <= 8], default=0)
    return LocalEncoder(backbone.up_to(depth))


class Located(NamedTuple):
    """theta ``[B,2,3]``, and residual ``[B]``, 1 minus the correlation of edges with the mean of
    the training images there, NaN where it is not known; None: there is no alignment."""

    theta: Tensor | None
    residual: Tensor | None


class PoseEstimator(nn.Module):
    """Image-level coarse alignment (ICA): images ``[B,3,H,W]`` in 0..1 to theta ``[B,2,3]``,
    aligned to image coordinates, or None where the images stay as they are.

    By a template that was searched for (``aligner``), or by the paper's plain spatial transformer
    (``ica``). :meth:`install` puts either in.

    Arguments:
        search_size: height and width at which poses are searched and refined.
        family: transformations of the plain ICA; ``"auto"`` is affine.
        aspect: width over height of the photographs in true units.
    """

    def __init__(
        self, search_size: tuple[int, int], family: str = "auto", aspect: float = 1.0
    ) -> None:
        super().__init__()
        self.search_size = search_size
        self.family = "affine" if family == "auto" else family
        self.aspect = real_number("aspect", aspect, LEAST_ASPECT, LARGEST_ASPECT)
        self.aligner: TemplateAligner | None = None
        self.ica: SpatialAlign | None = None
        self.template: GaussNewtonRefiner | None = None

    @in_own_state
    def forward(self, images: Tensor) -> Tensor | None:
        """theta ``[B,2,3]`` of images ``[B,3,H,W]``; None: there is no alignment."""
        if self.aligner is not None:
            return self.aligner(images).theta
        return None if self.ica is None else self.ica.localise(images)

    @in_own_state
    def locate(self, images: Tensor) -> Located:
        """As :meth:`forward`, with how well each image agrees with the template at its pose."""
        if self.aligner is not None:
            found = self.aligner(images)
            return Located(found.theta, 1 - found.correlation)
        theta = self(images)
        return Located(theta, None if theta is None else self.residual(images, theta))

    if TYPE_CHECKING:  # nn.Module types calls as Any
        __call__ = forward

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PoseEstimator:
        super()._apply(keeping_dtypes(fn), recurse)
        return self

    def install(
        self,
        *,
        aligner: TemplateAligner | None = None,
        ica: SpatialAlign | None = None,
        template: GaussNewtonRefiner | None = None,
        aspect: float | None = None,
    ) -> PoseEstimator:
        """Take these parts in place of all that there were; returns the room.

        Arguments:
            aligner: poses by correlation with a template.
            ica: poses by a trained spatial transformer.
            template: what residuals are measured against where there is no aligner.
            aspect: None: as before.
        """
        self.aligner, self.ica, self.template = aligner, ica, template
        self.aspect = self.aspect if aspect is None else aspect
        return self

    def make_ica(self) -> SpatialAlign:
        """The spatial transformer of the paper's plain ICA, untrained."""
        return SpatialAlign(3, self.family, grid=64, aspect=self.aspect, **_BOUNDS)

    def make_template(self, template: Tensor, weight: Tensor) -> GaussNewtonRefiner:
        """Mean edges ``[h,w]`` of aligned images, and their weight, as what compares with them."""
        return GaussNewtonRefiner(template, weight, "translation", aspect=self.aspect, iterations=0)

    def edges(self, images: Tensor) -> Tensor:
        """Edge strength of images at the size at which poses are refined ``[B,1,h,w]``."""
        return edge_strength(resize(images, self.search_size), edge_size(self.search_size))

    @property
    def reference(self) -> GaussNewtonRefiner | None:
        """What residuals are measured against; None: nothing."""
        return self.template if self.aligner is None else self.aligner.refiner

    def residual(self, images: Tensor, theta: Tensor | None = None) -> Tensor:
        """1 minus the correlation of edges with the mean of the training images, ``[B]``, of
        images aligned by theta ``[B,2,3]`` (None: as they are); NaN without alignment."""
        if self.reference is None:
            return images.new_full((len(images),), torch.nan)
        if theta is None:
            theta = affine.identity(len(images), device=images.device)
        return 1 - self.reference.correlation(self.edges(images), theta)

    # State -----------------------------------------------------------------------------------

    def parts(self) -> dict[str, Any]:
        """Which parts there are, with what :meth:`restore` needs besides tensors, JSON-able."""
        aligner = None if self.aligner is None else self.aligner.state()
        return {"aligner": aligner, "ica": self.ica is not None}

    def restore(
        self,
        parts: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        backbone: FeatureBackbone,
        aspect: float,
    ) -> PoseEstimator:
        """The room of :meth:`parts` and of its ``state_dict()``; returns it.

        Arguments:
            backbone: the network whose early layers the encoder of an aligner copies.
            aspect: width over height of the photographs.

        Raises:
            RuntimeError, KeyError, ValueError: they do not fit each other.
        """
        self.install(aspect=aspect)
        aligner = ica = template = None
        if parts.get("aligner"):
            aligner = TemplateAligner.from_state(
                make_encoder(backbone), parts["aligner"], under("aligner", tensors)
            )
        if parts.get("ica"):
            ica = self.make_ica()
        if edges := under("template", tensors):
            template = self.make_template(**edges)
        self.install(aligner=aligner, ica=ica, template=template)
        self.load_state_dict(dict(tensors))
        return self
