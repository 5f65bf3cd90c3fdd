"""The models that are measured: ours, anomalib's PaDiM and PatchCore, and the controls, all on the
same features.

All take images ``[B,3,H,W]`` in 0..1, learn from batches of good ones and score to maps
``[B,H,W]``. The backbone is EfficientNet-Lite0 with the same weights everywhere.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fastalign.bench.controls import CONTROLS
from fastalign.bench.controls.contestant import Controlled
from fastalign.bench.libraries import load

BACKBONE = "tf_efficientnet_lite0"
LAYERS = ("blocks.1", "blocks.2", "blocks.4")  # strides 4, 8, 16


class Contestant(Protocol):
    def learn(self, batches: Iterable[Tensor]) -> None: ...

    def score(self, images: Tensor) -> Tensor: ...

    def stored_bytes(self) -> int: ...


class Ours:
    """:class:`fastalign.FYD` with some options, all else by default."""

    def __init__(self, size: int, **options: Any) -> None:
        from fastalign import FYD, FYDConfig

        self.model = FYD(FYDConfig(image_size=(size, size), **options))

    def learn(self, batches: Iterable[Tensor]) -> None:
        self.model.fit(torch.cat(list(batches)))

    def score(self, images: Tensor) -> Tensor:
        return self.model(images)[1]

    def stored_bytes(self) -> int:
        return _state_bytes(self.model)


class _Anomalib:
    """What both of anomalib's models share: our weights, its normalisation left to us."""

    model: Any

    def _finish(self, module: nn.Module) -> None:
        import timm

        from fastalign.nn import weights

        self.model = module
        whole = timm.create_model(BACKBONE)
        network = self.model.feature_extractor.feature_extractor
        weights.load_into(network, whole, weights.embedded_tensors(whole), "the embedded weights")
        self.mean = torch.tensor(weights.EMBEDDED_MEAN).view(3, 1, 1)
        self.std = torch.tensor(weights.EMBEDDED_STD).view(3, 1, 1)

    def _normalised(self, images: Tensor) -> Tensor:
        return (images - self.mean.to(images.device)) / self.std.to(images.device)

    def _show(self, batches: Iterable[Tensor]) -> None:
        self.model.train()
        self.model.feature_extractor.eval()
        for images in batches:
            self.model(self._normalised(images))

    def score(self, images: Tensor) -> Tensor:
        return self.model(self._normalised(images)).anomaly_map[:, 0]

    def stored_bytes(self) -> int:
        return _state_bytes(self.model)


class Padim(_Anomalib):
    """anomalib's PaDiM; ``gaussian_s`` are the seconds of its last fit of the Gaussians."""

    def __init__(self, channels: int) -> None:
        padim = load("anomalib.models.image.padim.torch_model").PadimModel
        torch.manual_seed(0)
        self._finish(padim(BACKBONE, list(LAYERS), False, channels))
        self.gaussian_s = 0.0

    def learn(self, batches: Iterable[Tensor]) -> None:
        self._show(batches)
        began = time.perf_counter()
        self.model.fit()
        self.gaussian_s = time.perf_counter() - began
        self.model.eval()


class Patchcore(_Anomalib):
    """anomalib's PatchCore: features at strides 8 and 16, a tenth of them kept, as by default."""

    def __init__(self, kept: float = 0.1) -> None:
        patchcore = load("anomalib.models.image.patchcore.torch_model").PatchcoreModel
        torch.manual_seed(0)
        self._finish(patchcore(list(LAYERS[1:]), BACKBONE, False))
        self.kept = kept

    def learn(self, batches: Iterable[Tensor]) -> None:
        self._show(batches)
        self.model.subsample_embedding(self.kept)
        self.model.eval()


CHANNELS = 100
NAMES = ("fastalign", "fastalign, no alignment", "anomalib PaDiM", "anomalib PatchCore")


def make(name: str, size: int) -> Contestant:
    """A contestant of :data:`NAMES`, or a control, for images ``size`` x ``size``.

    Raises:
        Absent: its library is not installed.
    """
    if name in CONTROLS:
        return Controlled(CONTROLS[name](0), size)
    if name == NAMES[0]:
        return Ours(size)
    if name == NAMES[1]:
        return Ours(size, align="none")
    return Padim(CHANNELS) if name == NAMES[2] else Patchcore()


def _state_bytes(module: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in module.state_dict().values())
