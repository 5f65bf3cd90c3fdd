"""The localiser: one small forward pass from an image to its pose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn

from fastalign.nn.registration.bank import TemplateBank
from fastalign.nn.registration.encoder import LocalEncoder, resize
from fastalign.nn.registration.refiner import GaussNewtonRefiner, edge_strength
from fastalign.nn.state import captured, in_own_state
from fastalign.numeric import whole_number, whole_pair
from fastalign.ops import affine


class Pose(NamedTuple):
    """theta ``[B,2,3]``, aligned to image coordinates; correlation ``[B]`` with the template, -1
    to 1."""

    theta: Tensor
    correlation: Tensor


def search_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """The size at which poses are searched: as many pixels as 128 x 128, sides multiples of 32."""
    height, width = image_size
    scale = 128 / (height * width) ** 0.5
    return (max(32, 32 * round(height * scale / 32)), max(32, 32 * round(width * scale / 32)))


def edge_size(size: tuple[int, int]) -> tuple[int, int]:
    """The size at which poses are refined: half that of the search."""
    return size[0] // 2, size[1] // 2


class TemplateAligner(nn.Module):
    """Pose of each image against a learned template.

    Descriptors of the image are correlated with a bank of turned templates over all shifts, and the
    best candidates are refined by Gauss-Newton; the one whose descriptors and edges together
    correlate best is the answer. Nothing depends on the other images of a batch. Made by
    :func:`search_poses`. Ours.
    """

    def __init__(
        self,
        encoder: LocalEncoder,
        bank: TemplateBank,
        refiner: GaussNewtonRefiner,
        size: tuple[int, int],
        candidates: int = 3,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.bank = bank
        self.refiner = refiner
        self.size = whole_pair("TemplateAligner: size", size, because="height and width")
        self.candidates = whole_number("TemplateAligner: candidates", candidates, 1, 1000)

    @in_own_state
    def forward(self, images: Tensor) -> Pose:
        """Poses of images ``[B,3,H,W]`` in 0..1, at any size with the same aspect."""
        # Libraries of Fourier transforms have no plan for no images.
        if not captured() and len(images) == 0:
            return Pose(affine.identity(0, device=images.device), images.float().new_zeros(0))
        return self._find(resize(images.float(), self.size))

    if TYPE_CHECKING:  # nn.Module types calls as Any
        __call__ = forward

    def _find(self, small: Tensor) -> Pose:
        candidates, agreement = self.bank(self.encoder(small), self.candidates)
        edges = edge_strength(small, edge_size(self.size))
        theta, correlation = self.refiner(edges, candidates)
        # Edges place a pose best, descriptors tell better which of several it is.
        best = (correlation + agreement).argmax(1, keepdim=True)
        chosen = theta.gather(1, best[..., None, None].expand(-1, 1, 2, 3))
        return Pose(chosen.squeeze(1), correlation.gather(1, best).squeeze(1))

    def state(self) -> dict[str, Any]:
        """What :meth:`from_state` needs besides the tensors, JSON-able."""
        return {
            "family": self.refiner.family,
            "aspect": self.refiner.aspect,
            "iterations": self.refiner.iterations,
            "max_shift": self.bank.max_shift,
            "size": list(self.size),
            "candidates": self.candidates,
        }

    @classmethod
    def from_state(
        cls, encoder: LocalEncoder, state: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> TemplateAligner:
        """The aligner of a :meth:`state` and the tensors of its ``state_dict()``."""
        aspect = float(state["aspect"])
        bank = TemplateBank(
            tensors["bank.angles"],
            tensors["bank.templates"],
            aspect=aspect,
            max_shift=float(state["max_shift"]),
        )
        refiner = GaussNewtonRefiner(
            tensors["refiner.template"],
            tensors["refiner.weight"],
            str(state["family"]),
            aspect=aspect,
            iterations=int(state["iterations"]),
        )
        height, width = state["size"]
        aligner = cls(encoder, bank, refiner, (int(height), int(width)), int(state["candidates"]))
        aligner.load_state_dict(dict(tensors))
        return aligner
