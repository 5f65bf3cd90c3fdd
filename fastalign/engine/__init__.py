"""Fit, evaluate and predict as library functions; the command line is a thin layer above them."""

from fastalign.engine.evaluate import evaluate_category
from fastalign.engine.fit import fit_category
from fastalign.engine.predict import predict_paths
from fastalign.engine.results import (
    Alignment,
    Evaluation,
    FitOutcome,
    ImageResult,
    Prediction,
    Predictions,
    Skipped,
)
from fastalign.models.progress import NoProgress, Progress

__all__ = [
    "Alignment",
    "Evaluation",
    "FitOutcome",
    "ImageResult",
    "NoProgress",
    "Prediction",
    "Predictions",
    "Progress",
    "Skipped",
    "evaluate_category",
    "fit_category",
    "predict_paths",
]
