"""Images that are known again: those of a fit, from what its record keeps of them."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastalign.data.twins import NEAR, distances, pictures

# Half precision keeps 11 bits; of one image there is no typical distance.
_LEAST_NEAR = 1e-3


class Known(NamedTuple):
    """An image of the fit: its name, and whether the pixels are the same, value by value, as the
    model sees them; else they are nearly so."""

    name: str
    same: bool


@dataclass(frozen=True)
class KnownImages:
    """What is kept of the images of a fit.

    The same picture is known by its digest, whatever its format or name. Nearly the same is what
    :func:`fastalign.data.group_twins` takes for one: encoded again, at another size, another frame
    of a burst, a little brighter. A picture that was cropped, turned or mirrored is not known.

    Attributes:
        names: of the images, from the folder that they have in common.
        digests: :func:`fastalign.data.digest` of each; empty where an earlier version kept none.
        pictures: small pictures ``[N,D]`` float16.
        typical: how far the pictures of different images lie apart.
    """

    names: Sequence[str]
    digests: Sequence[str]
    pictures: Tensor
    typical: float

    def record(self) -> dict[str, Any]:
        """As the metadata of a model keeps it, JSON-able."""
        data = self.pictures.contiguous().numpy().tobytes()
        return {
            "names": list(self.names),
            "digests": list(self.digests),
            "typical": self.typical,
            "pictures": base64.b64encode(data).decode("ascii"),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> KnownImages:
        """What :meth:`record` gave."""
        data = bytearray(base64.b64decode(record["pictures"]))
        names = list(record["names"])
        small = torch.frombuffer(data, dtype=torch.float16).view(len(names), -1)
        return cls(names, list(record.get("digests") or ()), small, float(record["typical"]))

    def find(self, digest: str, glance: Tensor) -> Known | None:
        """The image of the fit that another one is, by its :func:`fastalign.data.digest` and its
        :func:`fastalign.data.glance` ``[1,D]``; None: none."""
        if digest in self.digests:
            return Known(self.names[self.digests.index(digest)], True)
        gaps = distances(pictures(glance.cpu()), self.pictures.float())[0]
        place = int(gaps.argmin())
        near = max(NEAR * self.typical, _LEAST_NEAR)
        return Known(self.names[place], False) if float(gaps[place]) <= near else None
