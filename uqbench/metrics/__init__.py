"""Calibration, selective prediction, OOD detection, uncertainty and diversity, as streaming torchmetrics.

Every `Metric` has a functional twin in the same file that gives the same number from all the data at once.
"""

from uqbench.metrics.calibration import (
    AdaptiveCalibrationError,
    CalibrationBins,
    CalibrationError,
    ClasswiseCalibrationError,
    MaximumCalibrationError,
    MemberCalibrationError,
)
from uqbench.metrics.diversity import Diversity
from uqbench.metrics.ood import OOD_SCORES, OODScores, ood_detection, ood_metrics
from uqbench.metrics.proper_scores import Accuracy, Brier, NegativeLogLikelihood
from uqbench.metrics.selective import RiskCoverageCurve, SelectiveRisk, risk_coverage_curve
from uqbench.metrics.suite import CONVENTIONS, EvaluationSuite
from uqbench.metrics.temperature import TemperatureFit
from uqbench.metrics.uncertainty import Uncertainty

__all__ = [
    "CONVENTIONS",
    "OOD_SCORES",
    "Accuracy",
    "AdaptiveCalibrationError",
    "Brier",
    "CalibrationBins",
    "CalibrationError",
    "ClasswiseCalibrationError",
    "Diversity",
    "EvaluationSuite",
    "MaximumCalibrationError",
    "MemberCalibrationError",
    "NegativeLogLikelihood",
    "OODScores",
    "RiskCoverageCurve",
    "SelectiveRisk",
    "TemperatureFit",
    "Uncertainty",
    "ood_detection",
    "ood_metrics",
    "risk_coverage_curve",
]
