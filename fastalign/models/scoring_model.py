"""A model that scores images: the way of a batch through its rooms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from fastalign.load import watched
from fastalign.models.detail import Detail, Measured, Way
from fastalign.models.evidence import or_unknown
from fastalign.models.images import is_empty, judgeable, one_for
from fastalign.models.maps import are_finite, where_known
from fastalign.models.room_model import RoomModel
from fastalign.models.rooms import or_identity, warp
from fastalign.nn.replay import replayed
from fastalign.nn.state import in_own_state
from fastalign.ops import affine


class ScoringModel(RoomModel):
    """A model of rooms that scores images; arguments, attributes and errors are those of
    :class:`RoomModel`."""

    @watched
    @in_own_state
    @replayed
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Score images ``[B,3,H,W]`` in 0..1 of the model's image size.

        Returns:
            scores ``[B]``, the largest value of each map (or the mean of its ``top_share``), and
            maps ``[B,H,W]`` in the frame of the images, float32: the Mahalanobis distance,
            smoothed, in the unit of the fit, NaN where nothing was compared. An image that cannot
            be judged has NaN as score: a value of it or of its features is NaN or infinite, and
            then all of its map is NaN; or its pose was not found, or less of the part is in it than
            in normal images (:class:`fastalign.models.evidence.Evidence`), and then its map is of
            what was compared at the likeliest pose.
            The others of a batch have the same bits as without it.
            :func:`fastalign.verdict.judge` compares a score with a threshold.

        On CUDA without gradients a batch is one launch of a recorded graph (``replays``).

        Raises:
            ValueError: images of another shape, or on another device than the model.
            InputError: images of whole numbers, or far outside 0..1, such as in 0..255. On a GPU,
                where a look at them would wait, images in 0..255 have NaN as score instead.
            ConfigError: not fitted.
        """
        return self.measure(images)[:2]

    if TYPE_CHECKING:  # nn.Module types calls as Any
        __call__ = forward

    def measure(self, images: Tensor) -> Measured:
        """As :meth:`forward`, with what tells whether there was enough to judge by."""
        images = self.prepare(images)
        if is_empty(images):
            return Measured(*(found[:0] for found in self.measure(one_for(images))))
        way = self._way(images)
        return Measured(way.score, way.map, way.coverage, or_unknown(way.residual, way.score))

    def _way(self, images: Tensor) -> Way:
        pose, residual = self.pose.locate(images)
        aligned = warp(images, pose)
        stages, theta = self.features(aligned, pose)
        distance, support = self.density(stages)
        valid = self.maps.valid(theta)
        coverage = self.maps.coverage(valid, support, images)
        finite = judgeable(images) & are_finite(distance)
        enough = self.evidence.enough(residual, coverage)
        score, maps, regions = self.maps.judged(distance, theta, support, finite, enough, valid)
        return Way(score, maps, theta, aligned, residual, coverage, finite, regions)

    @watched
    @in_own_state
    @replayed
    def predict_detail(self, images: Tensor) -> Detail:
        """As :meth:`forward`, with everything that was found on the way."""
        images = self.prepare(images)
        if is_empty(images):
            return Detail(*(found[:0] for found in self.predict_detail(one_for(images))))
        score, maps, theta, aligned, residual, coverage, finite, regions = self._way(images)
        before = where_known(finite, self.pose.residual(images))
        after = where_known(finite, or_unknown(residual, score))
        theta = where_known(finite, or_identity(theta, images))
        valid = self.maps.valid(theta)
        assert valid is not None
        magnitude = affine.magnitude(theta, self.aspect)
        covered = where_known(finite, coverage)
        found = score, maps, theta, valid, aligned, before, after
        return Detail(*found, **magnitude, coverage=covered, regions=regions)

    @in_own_state
    def align(self, images: Tensor) -> Tensor:
        """theta ``[B,2,3]`` of the image-level alignment, the identity where there is none."""
        images = self.prepare(images)
        if is_empty(images):
            return affine.identity(0, device=images.device)
        return where_known(judgeable(images), or_identity(self.pose(images), images))
