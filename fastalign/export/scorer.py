"""What an exported file computes: a module of tensors in and tensors out, and its description."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastalign.errors import ConfigError
from fastalign.models.maps import are_finite, where_known
from fastalign.ops.plain import plain_ops
from fastalign.prepare import CONTRACT_VERSION, FORMAT
from fastalign.verdict import judge_each

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD

# dtype of the input, by name: float32 in 0..1 or uint8 in 0..255.
INPUTS = ("float32", "uint8")
OUTPUTS = ("score", "map", "label", "coverage", "residual")


class Scorer(nn.Module):
    """A fitted model with what comes before and after it.

    ``forward(images)`` takes RGB images ``[B,3,H,W]`` of the model's image size, float32 in 0..1 or
    uint8 in 0..255, and returns score ``[B]`` and map ``[B,H,W]`` as :class:`fastalign.FYD` does,
    float32, and label ``[B]`` int64: 1 where the score exceeds the model's image threshold, 0
    where it does not, -1 for a score that is not finite and for a model without threshold. An image
    with a value that is NaN or infinite has NaN as score and in all of its map, whatever the
    runtime makes of such values inside the network; the others of its batch do not notice.

    Arguments:
        model: a fitted model; it is not copied.
        input_dtype: ``"float32"`` or ``"uint8"``.

    Raises:
        ConfigError: the model is not fitted, or there is no such input.
    """

    def __init__(self, model: FYD, input_dtype: str = "float32") -> None:
        super().__init__()
        if input_dtype not in INPUTS:
            raise ConfigError(f"input {input_dtype!r}: use one of {', '.join(INPUTS)}.")
        if not model.density.fitted:
            raise ConfigError("the model is not fitted; fit it, or load one that is.")
        self.model = model
        self.input_dtype = input_dtype

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        if self.input_dtype == "uint8":
            images = images.float() / 255
        given = are_finite(images)
        # The network never sees what is not finite: OpenVINO's Relu and Clip turn NaN into numbers,
        # and poses from it would index outside of the image.
        found = self.model.measure(torch.where(given[:, None, None, None], images, 0.5))
        score, maps, coverage, residual = (where_known(given, value) for value in found)
        label = judge_each(score, self.model.image_threshold).long()
        return score, maps, label, coverage, residual

    def example(self, batch: int = 2) -> Tensor:
        """An input of the right shape and dtype."""
        shape = (batch, 3, *self.model.config.image_size)
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(shape, generator=generator).to(self.model.density.device)
        return noise if self.input_dtype == "float32" else (noise * 255).to(torch.uint8)

    def trace(self) -> torch.export.ExportedProgram:
        """The graph, in torch's own ops, for batches of any size from 1 on."""
        batch = torch.export.Dim("batch", min=1)
        example = self.example()
        with plain_ops(), torch.no_grad():
            # Matrices that depend on sizes alone are kept from one call to the next. Made while
            # tracing they would hold no numbers.
            self(example)
            return torch.export.export(self, (example,), dynamic_shapes=({0: batch},), strict=False)

    def contract(self) -> dict[str, Any]:
        """What a user of the file has to know, JSON-able."""
        import fastalign

        model = self.model
        height, width = model.config.image_size
        image, pixel = (
            None if math.isnan(value) else value
            for value in (float(model.image_threshold), float(model.pixel_threshold))
        )
        return {
            "format": FORMAT,
            "version": CONTRACT_VERSION,
            "fastalign": fastalign.__version__,
            "input": {
                "name": "images",
                "dtype": self.input_dtype,
                "shape": ["batch", 3, height, width],
                "range": [0, 1] if self.input_dtype == "float32" else [0, 255],
                "colours": "RGB",
                "resize": "the whole image, bilinear with antialiasing, rounded to 8 bits",
                "depth": None if model.depth is None else model.depth.record(),
            },
            "outputs": {
                "score": {"dtype": "float32", "shape": ["batch"]},
                "map": {"dtype": "float32", "shape": ["batch", height, width]},
                "label": {"dtype": "int64", "shape": ["batch"]},
                "coverage": {"dtype": "float32", "shape": ["batch"]},
                "residual": {"dtype": "float32", "shape": ["batch"]},
            },
            "labels": {
                "0": "good",
                "1": "anomaly",
                "-1": "unsure: no threshold or no score",
            },
            "evidence": model.evidence.record(),
            "regions_of_interest": {
                name: limit if math.isfinite(limit) else None
                for name, limit in model.roi_thresholds.items()
            }
            or None,
            "image_threshold": image,
            "pixel_threshold": pixel,
            "openvino": {"INFERENCE_PRECISION_HINT": "f32"},
            "config": dataclasses.asdict(model.config),
        }

    def contract_text(self) -> str:
        """:meth:`contract` as one line of JSON."""
        return json.dumps(self.contract(), allow_nan=False)
