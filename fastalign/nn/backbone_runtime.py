"""A backbone's choice between torch and OpenVINO, for each size of an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fastalign.errors import BackendError, ConfigError
from fastalign.nn.openvino_network import OpenvinoNetwork, Refusal
from fastalign.nn.runtime import Chosen, check_runtime, chosen_on

if TYPE_CHECKING:
    from typing_extensions import Self

# Memory of an image's pass, above which OpenVINO, which has no pieces, is slower than pieces.
_WHOLE_BYTES = 512_000_000


class ByRuntime(nn.Module):
    """A network in float32 that torch computes, in parts too, and OpenVINO where it may.

    A subclass has the parts as modules, gives their maps by torch, and calls :meth:`_choose` when
    it was moved, changed or asked for another precision.

    Attributes:
        asked_runtime: what was asked for.
    """

    name: str
    trainable: bool

    def __init__(self) -> None:
        super().__init__()
        self.asked_runtime = "torch"
        self._chosen = Chosen("torch")
        self._openvino: OpenvinoNetwork | None = None

    def run_by(self, runtime: str, *, strict: bool = True) -> Self:
        """Let ``"torch"`` compute, ``"openvino"``, or ``"auto"``; returns itself.

        A new one is computed by torch. OpenVINO takes float32 images on a processor, in float32 and
        bfloat16, without gradients; all else is torch's: training, what :func:`torch.compile` and
        exporters record, a memory budget, forward hooks.

        Arguments:
            runtime: auto: OpenVINO where it is installed, on x86-64, and converts the network to
                what torch gives within 0.00001 of a map's largest value. openvino: the same,
                wherever it is installed, and an error where it does not.
            strict: False: a runtime for the device that it will be moved to.

        Raises:
            ConfigError: there is no such runtime, or not here; or a backbone that is trained.
            BackendError: OpenVINO is not installed.
        """
        check_runtime(runtime, next(self.parameters()).device if strict else None)
        if self.trainable and runtime == "openvino":
            raise ConfigError("runtime openvino: a trainable backbone is computed by torch.")
        self.asked_runtime = runtime
        self._settle()
        return self

    def chosen(self, height: int, width: int) -> Chosen:
        """What computes images of this size without gradients, made ready for them.

        Raises:
            BackendError: it was to be OpenVINO, which does not give what torch does.
        """
        if self._openvino is not None:
            try:
                self._converted(self._openvino, (3, height, width), None)
            except Refusal as refusal:
                return self._refused(refusal)
        return self._chosen

    def _choose(self, device: torch.device, precision: str) -> None:
        self._chosen = chosen_on(device, self.asked_runtime)
        if self.trainable:
            self._chosen = Chosen("torch", "it is trained")
        served = self._chosen.runtime == "openvino"
        self._openvino = OpenvinoNetwork(precision) if served else None

    def _refused(self, refusal: Refusal) -> Chosen:
        if self.asked_runtime == "openvino" and refusal.final:
            raise BackendError(
                f"runtime openvino: backbone {self.name}: {refusal}; use auto or torch."
            )
        return Chosen("torch", str(refusal))

    def _by_openvino(self, x: Tensor, stage: int | None) -> list[Tensor] | None:
        """Maps of a stage, None: of the whole network; None where torch computes them."""
        runs = self._openvino
        if runs is None or not runs.serves(x, self):
            return None
        try:
            return self._converted(runs, tuple(x.shape[1:]), stage)(x)
        except Refusal as refusal:
            self._refused(refusal)
            return None

    def _converted(
        self, runs: OpenvinoNetwork, size: tuple[int, ...], stage: int | None
    ) -> Callable[[Tensor], list[Tensor]]:
        """What computes it for images or maps of a size.

        Raises:
            Refusal: OpenVINO does not.
        """
        if self._bounded():
            raise Refusal("a memory budget lets images go through the network in pieces")

        def check() -> None:
            if stage is None and self.image_bytes(*size[1:]) > _WHOLE_BYTES:
                raise Refusal("images of this size go through the network in pieces")

        name = "network" if stage is None else f"stage {stage}"
        module = self._part(stage)
        return runs.find(
            name,
            module,
            lambda x: self._in_float32(x, stage),
            lambda x: self._by_torch(x) if stage is None else [self._stage_by_torch(stage, x)],
            size,
            check,
        )

    # Of the subclass -------------------------------------------------------------------------

    def image_bytes(self, height: int, width: int) -> int:
        """Memory of one image's pass."""
        raise NotImplementedError

    def _settle(self) -> None:
        raise NotImplementedError

    def _bounded(self) -> bool:
        """Whether there is a memory budget."""
        raise NotImplementedError

    def _part(self, stage: int | None) -> nn.Module:
        """A stage in float32, None: all that has weights."""
        raise NotImplementedError

    def _in_float32(self, x: Tensor, stage: int | None) -> Sequence[Tensor]:
        """Maps of a stage, None: of the whole network, in float32 and at once."""
        raise NotImplementedError

    def _by_torch(self, images: Tensor) -> Sequence[Tensor]:
        raise NotImplementedError

    def _stage_by_torch(self, index: int, x: Tensor) -> Tensor:
        raise NotImplementedError
