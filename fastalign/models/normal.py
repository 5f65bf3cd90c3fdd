"""What a fit keeps of its normal images so that thresholds of regions can be derived later."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Bytes of distances at most: JSON holds them.
_MOST = 32_000_000


@dataclass(frozen=True)
class NormalDistances:
    """Distances of normal images by a density that has not seen them, before any map is made.

    A map of a region, its score, and with them every threshold follow from these, exactly as from
    the images themselves.

    Attributes:
        distance: ``[M,h,w]`` float32 in the part's frame, as the fitted density would give them;
            NaN where the density that gave them had no support.
        theta: ``[M,2,3]`` float32, where the part lies; None: images are not aligned.
        groups: the group of twins of each image.
        poses: ``[N,2,3]`` float32 of all normal images; None: images are not aligned.
        kind: what images ``distance`` is of, such as ``normal image``.
        alone: how they were scored, in words that follow their number.
    """

    distance: Tensor
    theta: Tensor | None
    groups: Sequence[int]
    poses: Tensor | None
    kind: str
    alone: str = ""

    @staticmethod
    def fits(images: int, size: tuple[int, int]) -> bool:
        """Whether a model file keeps the distances ``[h,w]`` of so many images."""
        return 4 * images * size[0] * size[1] <= _MOST

    def each(self, device: torch.device) -> Iterator[tuple[Tensor, Tensor | None, Tensor | None]]:
        """Of one image after the other the distance ``[1,h,w]``, 0 without support, theta
        ``[1,2,3]`` (None: not aligned) and support ``[h,w]`` (None: everywhere), there."""
        for index, distance in enumerate(self.distance[:, None]):
            theta = None if self.theta is None else self.theta[index : index + 1].to(device)
            known = distance[0].isfinite()
            support = None if bool(known.all()) else known.to(device)
            yield distance.nan_to_num(0.0).to(device), theta, support

    def record(self) -> dict[str, Any]:
        """As the metadata of a model keeps it, JSON-able."""
        return {
            "kind": self.kind,
            "alone": self.alone,
            "groups": list(self.groups),
            "size": list(self.distance.shape[1:]),
            "distance": _text(self.distance),
            "theta": None if self.theta is None else _text(self.theta),
            "poses": None if self.poses is None else _text(self.poses),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> NormalDistances:
        """What :meth:`record` gave."""
        theta, poses = record["theta"], record["poses"]
        return cls(
            _numbers(record["distance"], *record["size"]),
            None if theta is None else _numbers(theta, 2, 3),
            [int(group) for group in record["groups"]],
            None if poses is None else _numbers(poses, 2, 3),
            str(record["kind"]),
            str(record["alone"]),
        )


def _text(values: Tensor) -> str:
    numbers = values.detach().float().cpu().contiguous().numpy().astype("<f4")
    return base64.b64encode(numbers.tobytes()).decode("ascii")


def _numbers(text: str, *shape: int) -> Tensor:
    numbers = np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32)
    return torch.from_numpy(numbers).view(-1, *shape)
