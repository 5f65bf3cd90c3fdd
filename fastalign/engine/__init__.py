"""Fit, evaluate and predict as library functions; the command line is a thin layer above them."""

from fastalign.engine.compare import compare_models
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
from fastalign.engine.update import UpdatedFile, update_file
from fastalign.models.progress import NoProgress, Progress
from fastalign.report.comparison import Comparison

__all__ = [
    "Alignment",
    "Comparison",
    "Evaluation",
    "FitOutcome",
    "ImageResult",
    "NoProgress",
    "Prediction",
    "Predictions",
    "Progress",
    "Skipped",
    "UpdatedFile",
    "compare_models",
    "evaluate_category",
    "fit_category",
    "predict_paths",
    "update_file",
]
