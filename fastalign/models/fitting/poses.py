"""The first step: whether and how images are aligned, and the poses of the training images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastalign.models.fitting.setting import Setting
from fastalign.models.names import below, under
from fastalign.models.pose import PoseEstimator, make_encoder
from fastalign.models.record import Decision
from fastalign.nn.backbone import FeatureBackbone
from fastalign.nn.registration.aligner import TemplateAligner
from fastalign.nn.registration.choose import choose_family, ladder
from fastalign.nn.registration.encoder import resize
from fastalign.ops import affine


@dataclass(frozen=True)
class FoundPoses:
    """What the search has found.

    Attributes:
        decision: about the teacher's alignment.
        aligner: that finds poses; None where there is none.
        theta: the poses of all training images ``[N,2,3]``.
    """

    decision: Decision
    aligner: TemplateAligner | None = None
    theta: Tensor | None = None

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain data for a checkpoint."""
        tensors = {}
        if self.aligner is not None and self.theta is not None:
            tensors = below("aligner", self.aligner.state_dict())
            tensors["theta"] = self.theta
        state = None if self.aligner is None else self.aligner.state()
        return tensors, {"decision": self.decision.to_json(), "aligner": state}

    @classmethod
    def from_saved(
        cls,
        tensors: Mapping[str, Tensor],
        meta: Mapping[str, Any],
        backbone: FeatureBackbone,
        device: torch.device,
    ) -> FoundPoses:
        """What :meth:`saved` gave."""
        aligner, theta = None, tensors.get("theta")
        if meta["aligner"]:
            aligner = _restored(backbone, meta["aligner"], under("aligner", tensors), device)
        theta = None if theta is None else theta.to(device)
        return cls(Decision.from_json(meta["decision"]), aligner, theta)


@torch.no_grad()
def find_poses(setting: Setting, pose: PoseEstimator, backbone: FeatureBackbone) -> FoundPoses:
    """Search for poses where the options ask for it, and align all training images by them.

    What is decided on a bounded number of images is decided by the first process; the poses are
    shared out.

    Args:
        setting: of the fit.
        pose: for sizes and aspect; left as it is.
        backbone: whose features judge and describe.
    """
    config, world, device = setting.config, setting.world, setting.device
    if not config.uses("ica"):
        return FoundPoses(Decision(False, "no image-level alignment", "it was not asked for"))
    if not config.teacher:
        return FoundPoses(Decision(True))
    kept: list[TemplateAligner] = []
    search = partial(_search, setting, pose, backbone, kept)
    decision, found = world.once(search, "the search for poses")
    if found is None:
        return FoundPoses(decision)
    aligner = kept[0] if kept else _restored(backbone, *found, device)
    share = world.share(len(setting.train))
    setting.progress.start("aligning", len(share))
    poses = [affine.identity(0, device=device)]
    with world.together("aligning"):
        for batch, _ in setting.train.batches(setting.plan.images, share):
            poses.append(aligner(batch).theta)
            setting.progress.advance(len(batch))
    return FoundPoses(decision, aligner, world.gather_rows(torch.cat(poses), "the poses"))


def _search(
    setting: Setting, pose: PoseEstimator, backbone: FeatureBackbone, kept: list[TemplateAligner]
) -> tuple[Decision, tuple[dict[str, Any], dict[str, Tensor]] | None]:
    """The decision, and the state of the aligner for the other processes; this one's is put into
    ``kept``."""
    config, size = setting.config, pose.search_size
    batches = setting.train.batches(setting.plan.images, setting.judged)
    images = torch.cat([resize(batch, size) for batch, _ in batches])
    setting.progress.start("searching poses", len(ladder(config.family)))
    choice = choose_family(
        images,
        partial(make_encoder, backbone),
        backbone,
        family=config.family,
        aspect=pose.aspect,
        may_skip=config.skip,
        report=setting.progress.advance,
    )
    used = choice.search is not None
    decision = Decision(used, choice.summary, choice.reason, choice.shares)
    if choice.search is None:
        return decision, None
    aligner = choice.search.aligner.to(setting.device).eval()
    kept.append(aligner)
    state = {name: tensor.cpu() for name, tensor in aligner.state_dict().items()}
    return decision, (aligner.state(), state)


def _restored(
    backbone: FeatureBackbone,
    state: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    device: torch.device,
) -> TemplateAligner:
    return TemplateAligner.from_state(make_encoder(backbone), state, tensors).to(device)
