"""All metrics of one split, fed with predictive distributions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from uqbench.errors import check
from uqbench.metrics.calibration import (
    AdaptiveCalibrationError,
    CalibrationBins,
    CalibrationError,
    ClasswiseCalibrationError,
    MaximumCalibrationError,
    MemberCalibrationError,
)
from uqbench.metrics.diversity import Diversity
from uqbench.metrics.proper_scores import Accuracy, Brier, NegativeLogLikelihood
from uqbench.metrics.selective import COVERAGES, RISKS, RiskCoverageCurve, SelectiveRisk
from uqbench.metrics.uncertainty import Uncertainty
from uqbench.predictive import Predictive

CONVENTIONS: dict[str, str] = {
    "units": "risks and coverages are fractions of 1; entropies and divergences are in nats (natural logarithm)",
    "prediction": "argmax of the predictive probabilities, the lowest class among equals; confidence is their maximum",
    "averaging": "predictive probabilities are the mean of the members' probabilities unless the record says logits; "
    "member_* are means over members of the members' own figures",
    "nll": "mean of -log p(target), not clipped",
    "brier": "sum over classes, mean over examples, in [0, 2]",
    "ece": "L1, equal-width bins (lo, hi] of the confidence, 0 in the first and 1 in the last bin",
    "ece_adaptive": "L1, equal-mass bins by rank; equal confidences share the bin of the middle of their ranks",
    "ece_classwise": "L1, equal-width bins of each class's probability over all examples, mean over classes",
    "mce": "the largest gap of a non-empty equal-width bin",
    "ties": "equal confidences: expectation over their random orders; coverage_at_risk takes or leaves them as a whole",
    "aurc": "trapezoidal area over coverage 1/n .. 1; aurc_sum: mean of risk@k over k; aurc_achievable: lower convex "
    "hull of errors over coverage 0 .. 1, integrated exactly (fd-shifts)",
    "eaurc": "aurc minus the aurc of the order by risk, both trapezoid",
    "augrc": "trapezoidal area of errors / n over coverage 0 .. 1",
    "risk_at_coverage": "selective risk of the ceil(c n) most confident examples",
    "coverage_at_risk": "largest coverage of an existing threshold with selective risk <= r, chosen on the split "
    "itself; 0 if there is none",
    "ood": "OOD is positive, a higher score is more OOD; scores: max_probability = 1 - confidence, total_entropy, "
    "mutual_information; ties count half in AUROC; AUPR is average precision; FPR95 is the share of ID flagged at the "
    "highest threshold that detects at least 95 % of OOD",
    "uncertainty": "total = H[mean_m p_m], aleatoric = mean_m H[p_m], mutual_information = total - aleatoric",
    "diversity": "means over pairs of members: disagreement of predicted classes, KL over ordered pairs, cosine of "
    "probability vectors; absent for one member",
    "temperature": "one for all members, fitted on validation to the NLL of the averaged prediction; "
    "temperature_scaled/* are the figures at that temperature",
}


SHORT = ("accuracy", "nll", "brier", "ece", "aurc", "mutual_information")
SCALED = ("nll", "brier", "ece", "ece_adaptive", "aurc")


class _Scores(nn.Module):
    """The figures that exist both of the raw and of the temperature-scaled prediction."""

    def __init__(self, full: bool, num_bins: int, coverages: Sequence[float], risks: Sequence[float]) -> None:
        super().__init__()
        self.nll, self.brier = NegativeLogLikelihood(), Brier()
        self.ece = CalibrationError(num_bins)
        self.ece_adaptive = AdaptiveCalibrationError(num_bins) if full else None
        self.selective = SelectiveRisk(coverages, risks)

    def update(self, predictive: Predictive, target: Tensor) -> None:
        confidence, correct = predictive.confidence, predictive.prediction == target
        self.nll.update(predictive.log_probs, target)
        self.brier.update(predictive.probs, target)
        self.ece.update(confidence, correct)
        if self.ece_adaptive is not None:
            self.ece_adaptive.update(confidence, correct)
        self.selective.update(confidence, 1 - correct.float())

    def compute(self) -> dict[str, Tensor]:
        values = {"nll": self.nll.compute(), "brier": self.brier.compute(), "ece": self.ece.compute()}
        if self.ece_adaptive is not None:
            values["ece_adaptive"] = self.ece_adaptive.compute()
        return values | self.selective.compute()


class _Details(nn.Module):
    """The figures of the full set alone: of all classes' probabilities and of the single members."""

    def __init__(self, num_classes: int, num_members: int, num_bins: int) -> None:
        super().__init__()
        self.mce = MaximumCalibrationError(num_bins)
        self.ece_classwise = ClasswiseCalibrationError(num_classes, num_bins)
        self.diversity = Diversity()
        self.member_accuracy, self.member_nll = Accuracy(), NegativeLogLikelihood()
        self.member_ece = MemberCalibrationError(num_members, num_bins)

    def update(self, predictive: Predictive, target: Tensor) -> None:
        self.mce.update(predictive.confidence, predictive.prediction == target)
        self.ece_classwise.update(predictive.probs, target)
        members = predictive.member_log_probs
        self.diversity.update(members)
        # Members see the same examples, so the mean over all of [M * B] is the mean of the members' means.
        rows, targets = members.flatten(0, 1), target.repeat(len(members))
        self.member_accuracy.update(rows, targets)
        self.member_nll.update(rows, targets)
        log_confidence, prediction = members.max(dim=-1)
        self.member_ece.update(log_confidence.exp(), prediction == target)

    def compute(self) -> dict[str, Tensor]:
        return {
            "mce": self.mce.compute(),
            "ece_classwise": self.ece_classwise.compute(),
            "member_accuracy": self.member_accuracy.compute(),
            "member_nll": self.member_nll.compute(),
            "member_ece": self.member_ece.compute(),
            **self.diversity.compute(),
        }


class EvaluationSuite(nn.Module):
    """The metrics of one split; a torch module, so that ``.to(device)`` moves their states.

    The full set (for val and test): accuracy, nll, brier, ece, ece_adaptive, ece_classwise, mce, the keys of
    `SelectiveRisk`, total_entropy, aleatoric_entropy, mutual_information, member_accuracy, member_nll, member_ece, and
    for more than one member disagreement, kl, cosine. The short set (for shifted splits): accuracy, nll, brier, ece,
    aurc, mutual_information.

    Args:
        num_classes: C.
        num_members: M of the predictives it will be given.
        full: the full set or the short one.
        num_bins: bins of every calibration error.
        temperature: if given, also ``temperature_scaled/`` nll, brier, ece, aurc, and ece_adaptive in the full set: of
            the same members at this temperature.
        coverages: of ``risk_at_coverage[...]``.
        risks: of ``coverage_at_risk[...]``.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        num_classes: int,
        num_members: int = 1,
        *,
        full: bool = True,
        num_bins: int = 15,
        temperature: float | None = None,
        coverages: Sequence[float] = COVERAGES,
        risks: Sequence[float] = RISKS,
    ) -> None:
        super().__init__()
        check(num_classes >= 2, f"num_classes must be at least 2, got {num_classes}.")
        check(num_members >= 1, f"num_members must be at least 1, got {num_members}.")
        check(temperature is None or 0 < temperature < math.inf, f"temperature must be positive, got {temperature}.")
        self.num_classes, self.num_members, self.full, self.temperature = num_classes, num_members, full, temperature
        self.accuracy, self.uncertainty = Accuracy(), Uncertainty()
        self.raw = _Scores(full, num_bins, coverages, risks)
        self.scaled = None if temperature is None else _Scores(full, num_bins, coverages, risks)
        self.details = _Details(num_classes, num_members, num_bins) if full else None

    @torch.no_grad()
    def update(self, predictive: Predictive, target: Tensor) -> None:
        """Adds a batch.

        Args:
            predictive: M = ``num_members`` members on B examples over C = ``num_classes`` classes.
            target: ``[B]`` integer classes.

        Raises:
            ValueError: M, B or C do not fit.
        """
        members, examples, classes = predictive.member_logits.shape
        if (members, classes) != (self.num_members, self.num_classes) or target.shape != (examples,):
            raise ValueError(
                f"Made for logits [{self.num_members}, B, {self.num_classes}] and a target [B], got "
                f"{[members, examples, classes]} and {list(target.shape)}."
            )
        self.accuracy.update(predictive.log_probs, target)
        self.uncertainty.update(predictive)
        self.raw.update(predictive, target)
        if self.scaled is not None and self.temperature is not None:
            self.scaled.update(predictive.with_temperature(self.temperature), target)
        if self.details is not None:
            self.details.update(predictive, target)

    def compute(self) -> dict[str, float]:
        """Every figure of the split, under its key without the split's name; `DataError` before any example."""
        values = {"accuracy": self.accuracy.compute(), **self.raw.compute(), **self.uncertainty.compute()}
        if self.details is not None:
            values |= self.details.compute()
        else:
            values = {key: values[key] for key in SHORT}
        if self.scaled is not None:
            scaled = self.scaled.compute()
            values |= {f"temperature_scaled/{key}": scaled[key] for key in SCALED if key in scaled}
        return {key: float(value) for key, value in values.items()}

    def bins(self, temperature_scaled: bool = False) -> CalibrationBins:
        """The bins of the reliability diagram, of the raw or of the temperature-scaled prediction."""
        return self._scores(temperature_scaled).ece.bins()

    def risk_coverage(self, temperature_scaled: bool = False) -> RiskCoverageCurve:
        """The risk-coverage curve, of the raw or of the temperature-scaled prediction."""
        return self._scores(temperature_scaled).selective.curve()

    def reset(self) -> None:
        """Forgets every example."""
        for module in self.modules():
            if isinstance(module, Metric):
                module.reset()

    def _scores(self, temperature_scaled: bool) -> _Scores:
        if not temperature_scaled:
            return self.raw
        if self.scaled is None:
            raise ValueError("This suite was made without a temperature.")
        return self.scaled
