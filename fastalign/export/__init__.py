"""Models as files that run without fastalign: ONNX, OpenVINO, torch.export and AOTInductor.

``export_model`` writes one; ``plain_ops`` is what makes it possible, for exporters of other
libraries. docs/export.md states the contract of the files.
"""

from __future__ import annotations

from fastalign.export.exporter import FORMATS, export_model
from fastalign.export.scorer import INPUTS, OUTPUTS, Scorer
from fastalign.ops.plain import plain_ops

__all__ = ["FORMATS", "INPUTS", "OUTPUTS", "Scorer", "export_model", "plain_ops"]
