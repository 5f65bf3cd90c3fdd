"""What a page's script needs to judge again at another threshold."""

from __future__ import annotations

import json
import math
from pathlib import Path

from fastalign.engine.results import Evaluation, ImageResult
from fastalign.verdict import TRUTHS, Verdict

# By truth and verdict.
_WORDS = {
    "good": {"good": "passed", "anomaly": "false alarm"},
    "anomaly": {"good": "missed", "anomaly": "found"},
}


def word(image: ImageResult) -> str:
    """What a page calls the verdict on an image; its class has a part in it where it is known."""
    verdict = Verdict.UNSURE if image.predicted is None else Verdict(image.predicted)
    words = _WORDS.get(TRUTHS.get(image.label, ""), {})
    return words.get(verdict.text, verdict.text)


def document(evaluation: Evaluation) -> str:
    """Scores and labels of all images that count, not of those alone that are shown, and what goes
    with them; JSON that ends no element of a page."""
    model = evaluation.protocol.get("model_file") or "MODEL"
    threshold = evaluation.image_threshold
    found = {
        "threshold": threshold if threshold is not None and math.isfinite(threshold) else None,
        "model": Path(model).name,
        "words": _WORDS,
        "images": [
            [item.score if item.scored else None, item.label]
            for item in evaluation.images
            if item.counted
        ],
    }
    return json.dumps(found, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
