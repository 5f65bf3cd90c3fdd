"""How normal photographs show parts that lie still, and how much another one is moved. Ours."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastalign.nn.registration.aligner import edge_size, search_size
from fastalign.nn.registration.encoder import resize
from fastalign.nn.registration.refiner import GaussNewtonRefiner, edge_strength
from fastalign.ops import affine

# Edges that agree less with the normal ones say nothing of where they lie.
_LEAST_AGREEMENT = 0.3
# Poses are looked for from these shifts on, in shares of the frame.
_STARTS = (-0.1, 0.0, 0.1)
_ITERATIONS = 8


class NormalView:
    """The mean edges of normal photographs that are not aligned since they need not be: against
    them it is seen that the camera has moved.

    Arguments:
        template, weight: ``[h,w]``, mean edge strength and how much it counts.
        aspect: width over height of the photographs in true units.
    """

    def __init__(self, template: Tensor, weight: Tensor, aspect: float) -> None:
        self._refiner = GaussNewtonRefiner(
            template, weight, "similarity", aspect=aspect, iterations=_ITERATIONS
        )
        shifts = torch.tensor([[x, y] for y in _STARTS for x in _STARTS], device=template.device)
        self._starts = affine.from_parameters(2 * shifts, "translation", aspect)

    @staticmethod
    def edges(images: Tensor) -> Tensor:
        """Edge strength ``[B,h,w]`` of images ``[B,3,H,W]``."""
        searched = search_size((images.shape[-2], images.shape[-1]))
        return edge_strength(resize(images.float(), searched), edge_size(searched)).squeeze(1)

    @classmethod
    def of_sums(cls, number: Tensor, total: Tensor, squares: Tensor, aspect: float) -> NormalView:
        """Of the number of photographs and the sums ``[h,w]`` of their edges and of the squares."""
        template = total / number
        variance = (squares / number - template.square()).clamp_min(0)
        typical = variance.mean().clamp_min(1e-6)
        weight = typical / (variance + typical)
        return cls(template.float(), weight.float(), aspect)

    def find(self, edges: Tensor) -> Tensor:
        """Where the part lies, ``[B,2,3]`` as :meth:`fastalign.FYD.align` gives it, by edges
        ``[B,h,w]``; NaN where they do not agree."""
        starts = self._starts.expand(len(edges), -1, -1, -1).contiguous()
        theta, agreement = self._refiner(edges.float().unsqueeze(1).contiguous(), starts)
        best, place = agreement.max(1)
        chosen = theta[torch.arange(len(edges), device=theta.device), place]
        return torch.where((best > _LEAST_AGREEMENT)[:, None, None], chosen, torch.nan)

    def record(self) -> dict[str, Any]:
        """As the metadata of a model keeps it, JSON-able."""
        maps = torch.stack([self._refiner.template, self._refiner.weight]).cpu()
        data = maps.half().contiguous().numpy().tobytes()
        size = list(maps.shape[1:])
        text = base64.b64encode(data).decode("ascii")
        return {"size": size, "aspect": self._refiner.aspect, "maps": text}

    @classmethod
    def from_record(cls, record: Mapping[str, Any] | None) -> NormalView | None:
        """What :meth:`record` gave; None of None."""
        if record is None:
            return None
        data = bytearray(base64.b64decode(record["maps"]))
        template, weight = torch.frombuffer(data, dtype=torch.float16).view(2, *record["size"])
        return cls(template.float(), weight.float(), float(record["aspect"]))
