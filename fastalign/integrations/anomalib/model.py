"""The torch model inside the Lightning module."""

from __future__ import annotations

from anomalib.data import InferenceBatch
from torch import Tensor, nn

from fastalign.errors import ConfigError
from fastalign.models.fyd import FYD


class FydModel(nn.Module):
    """:class:`fastalign.FYD` with anomalib's result type.

    Attributes:
        fyd: the fitted model; None before.
    """

    fyd: FYD | None

    def __init__(self) -> None:
        super().__init__()
        self.fyd = None

    def forward(self, images: Tensor) -> InferenceBatch:
        """Score images ``[B,3,H,W]`` in 0..1 of the model's image size.

        Returns:
            ``pred_score [B]``, the largest value of each map, and ``anomaly_map [B,1,H,W]`` in the
            frame of the images, float32.

        Raises:
            ConfigError: not fitted.
            ValueError: images of another shape.
        """
        if self.fyd is None:
            raise ConfigError(
                "Fyd: not fitted; call Engine().fit(model, datamodule) first, or give the "
                "checkpoint of a fitted model (ckpt_path=..., Fyd.load_from_checkpoint)."
            )
        score, maps = self.fyd(images)
        return InferenceBatch(pred_score=score, anomaly_map=maps.unsqueeze(1))

    def train(self, mode: bool = True) -> FydModel:
        """The fitted model scores the same in either mode, so its layers stay in evaluation."""
        super().train(mode)
        if self.fyd is not None:
            self.fyd.eval()
        return self
