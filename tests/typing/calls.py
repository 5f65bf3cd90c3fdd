"""What a type checker knows of calls; mypy reads it with the package, nothing runs it."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import assert_type

from fastalign import FYD, nn, ops


def ops_take_the_buffers_of_a_density(x: Tensor, density: nn.DenseGaussian) -> None:
    assert_type(ops.mahalanobis(x, density.mean, density.whitener, squared=True), Tensor)
    assert_type(density(x), Tensor)
    plane = x[0, 0]
    maps = ops.affine.identity(2)
    refined = ops.refine_pose(x, maps[None], plane, plane, ops.affine.generators("affine"))
    assert_type(refined, tuple[Tensor, Tensor])
    moved = ops.anomaly_map(x, maps, plane > 0, plane[0], (8, 8))
    assert_type(moved, tuple[Tensor, Tensor])


def layers_say_what_a_call_returns(x: Tensor, model: FYD) -> None:
    aligned = nn.SpatialAlign(3, "affine")(x)
    assert_type(aligned.theta, Tensor)
    assert_type(nn.Projector(8)(x), Tensor)
    assert_type(nn.Predictor(8)(x), Tensor)
    assert_type(nn.FeatureBackbone("resnet18")(x), list[Tensor])
    assert_type(model(x), tuple[Tensor, Tensor])


def losses_are_tensors(p: Tensor, z: Tensor) -> None:
    assert_type(ops.dense_similarity_loss(p, z.detach()), Tensor)
    assert_type(ops.pairwise_distance(p), Tensor)
    assert_type(ops.warp_affine(p, ops.affine.identity(2)), Tensor)
