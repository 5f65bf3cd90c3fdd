"""Between training and density: the trained warps stay where they help."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from fastalign.models.features import FeatureExtractor
from fastalign.models.fitting.setting import Setting
from fastalign.models.pose import PoseEstimator
from fastalign.models.record import Decision
from fastalign.models.rooms import warp
from fastalign.nn.registration.choose import LEAST_IMAGES, MARGIN, unexplained_share
from fastalign.nn.registration.search import mean_template
from fastalign.ops import affine
from fastalign.words import count

# Locations of a map on which alignment is judged, at most: a mean does not need them all.
_JUDGED = 32 * 32


@torch.no_grad()
def judge_warps(
    setting: Setting, pose: PoseEstimator, features: FeatureExtractor, decision: Decision
) -> Decision:
    """Take the trained ICA and FCA out of their rooms where held-out normal images are explained no
    better with them; returns the decision about alignment with these.

    An ICA that stays gets the mean of the images that it has aligned, for residuals.
    """
    ica, fca, adapters = pose.ica, features.fca, features.adapters
    share = partial(_unexplained, setting, pose, features)
    if ica is not None:

        def use_ica(used: bool) -> None:
            pose.install(ica=ica if used else None)

        judged = _judge(setting, share, use_ica, "a trained warp")
        decision = replace(judged, fca=decision.fca)
    if fca is not None:

        def use_fca(used: bool) -> None:
            features.install(fca=fca if used else None, adapters=adapters)

        judged = _judge(setting, share, use_fca, "feature-level warps")
        decision = replace(decision, fca=judged)
    if pose.ica is not None:
        find = partial(_mean_edges, setting, pose)
        template, weight = setting.world.once(find, "the mean of the aligned images")
        refiner = pose.make_template(template.to(setting.device), weight.to(setting.device))
        pose.install(ica=pose.ica, template=refiner.to(setting.device))
    return decision


def _judge(
    setting: Setting, share: Callable[[], float], use: Callable[[bool], None], words: str
) -> Decision:
    """Whether a warp stays in its room, into and out of which ``use`` puts it."""
    if not setting.config.skip:
        return Decision(True, f"aligned by {words}", "skipping was ruled out")
    number = len(setting.judged)
    if number < LEAST_IMAGES:
        use(False)
        reason = f"{count(number, 'image', 'are')} too few to judge it by"
        return Decision(False, "no alignment", reason)
    use(False)
    before = setting.world.once(share, f"judging {words}")
    use(True)
    after = setting.world.once(share, f"judging {words}")
    helps = after < (1 - MARGIN) * before
    use(helps)
    reason = (
        f"share of held-out normal images that their mean leaves unexplained: {before:.1%} "
        f"without and {after:.1%} with {words}; it has to fall by {MARGIN:.0%} of itself"
    )
    return Decision(helps, f"aligned by {words}" if helps else "no alignment", reason)


def _unexplained(setting: Setting, pose: PoseEstimator, features: FeatureExtractor) -> float:
    """As :func:`unexplained_share`, of the stages as they are now."""
    batches, poses = [], []
    for images, _ in setting.train.batches(setting.plan.images, setting.judged):
        found = pose(images)
        stages, theta = features.encode(warp(images, found), found)
        batches.append([_coarse(stage) for stage in stages])
        poses.append(
            affine.identity(len(images), device=setting.device) if theta is None else theta
        )
    joined = [torch.cat(stage) for stage in zip(*batches, strict=True)]
    return unexplained_share(joined, torch.cat(poses), setting.config.image_size)


def _mean_edges(setting: Setting, pose: PoseEstimator) -> tuple[Tensor, Tensor]:
    """The mean of the training images as the plain ICA aligns them, and its weight."""
    edges, poses = [], []
    for images, _ in setting.train.batches(setting.plan.images, setting.judged):
        edges.append(pose.edges(images))
        found = pose(images)
        assert found is not None
        poses.append(found)
    template, weight = mean_template(torch.cat(edges), torch.cat(poses))
    return template.cpu(), weight.cpu()


def _coarse(maps: Tensor) -> Tensor:
    """Maps ``[B,C,h,w]`` at half size where they are more than small, and at most of so many
    locations."""
    step = 2 if min(maps.shape[2:]) > 16 else 1
    while maps.shape[2] * maps.shape[3] > _JUDGED * step**2:
        step *= 2
    return F.avg_pool2d(maps, step) if step > 1 else maps
