"""Models as files that run without fastalign: ONNX, OpenVINO, torch.export and AOTInductor."""

from __future__ import annotations

from fastalign.ops.plain import plain_ops

__all__ = ["plain_ops"]
