"""Selective prediction: the risk of answering only the most confident examples.

A network answers where its confidence reaches a threshold. Coverage is the share it answers, selective risk the mean
risk of those (El-Yaniv & Wiener 2010). A risk is any number in [0, 1]: 1 - correct, or 1 - a fractional accuracy.

Ties: examples of equal confidence have no order among themselves. Everything here is the expectation over their random
orders (within a group, the cumulative risk is linear in the number accepted), so that no number depends on the order of
rows; where a threshold must exist (`coverage_at_risk`, the achievable AURC), a group is accepted or rejected whole.

All risks, coverages and areas are fractions of 1; some codes report them times 100 or 1000.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

from uqbench.errors import check
from uqbench.metrics.streaming import StreamingMetric, check_pairs, require_examples

Convention = Literal["trapezoid", "sum", "achievable"]
COVERAGES = (0.5, 0.8, 0.9)
RISKS = (0.005, 0.01, 0.05, 0.1)


@dataclass(frozen=True, eq=False)
class RiskCoverageCurve:
    """The risk-coverage curve of n examples with G distinct confidences, on the CPU.

    Attributes:
        errors: ``[n]`` float64, the expected sum of the risks of the k = 1 .. n most confident examples.
        accepted: ``[G]`` int64, how many examples each existing threshold accepts, increasing to n.
        thresholds: ``[G]`` float32, decreasing; threshold t accepts the confidences >= t.
    """

    errors: Tensor
    accepted: Tensor
    thresholds: Tensor

    @property
    def coverage(self) -> Tensor:
        """Coverage k / n for k = 1 .. n, ``[n]`` float64."""
        return self._ranks / len(self.errors)

    @property
    def risk(self) -> Tensor:
        """Selective risk of the k most confident, k = 1 .. n, ``[n]`` float64."""
        return self.errors / self._ranks

    @property
    def _ranks(self) -> Tensor:
        return torch.arange(1, len(self.errors) + 1, dtype=torch.float64)

    def aurc(self, convention: Convention = "trapezoid") -> Tensor:
        """Area under the risk-coverage curve (Geifman & El-Yaniv 2017; Geifman et al. 2019, arXiv 1805.08206).

        Args:
            convention: three different numbers that papers call AURC.
                ``trapezoid``: the area by the trapezoidal rule over the coverages 1/n, 2/n .. 1, as reliable_vqa has it
                (``sklearn.metrics.auc``); 0 for a single example, whose interval is empty.
                ``sum``: the mean over k = 1 .. n of the risk of the k most confident (Geifman et al. 2019).
                ``achievable``: as in fd-shifts (Traub et al. 2024, arXiv 2407.01032): only the thresholds on the lower
                convex hull of (examples accepted, errors accepted) are used, between two of them a random mixture of
                both, so that the error *count* is linear in coverage and the risk is integrated exactly, over coverage
                0 .. 1 (below the first threshold the risk is constant). It is what a user who may choose thresholds
                with hindsight can achieve. fd-shifts takes the hull for 0/1 risks only and all thresholds otherwise;
                here it is always the hull.

        Returns:
            A float64 scalar in [0, 1].
        """
        if convention == "trapezoid":
            return torch.trapezoid(self.risk, self.coverage)
        if convention == "sum":
            return self.risk.mean()
        if convention == "achievable":
            return self._achievable_aurc()
        raise ValueError(f"AURC convention {convention!r} is not one of trapezoid, sum, achievable.")

    def _achievable_aurc(self) -> Tensor:
        from scipy.optimize import isotonic_regression

        sizes = self.accepted.diff(prepend=self.accepted.new_zeros(1)).double()
        totals = self.errors[self.accepted - 1]
        means = totals.diff(prepend=totals.new_zeros(1)) / sizes
        # The slopes of a cumulative sum's greatest convex minorant are its increments' isotonic regression.
        slopes = torch.from_numpy(isotonic_regression(means.numpy(), weights=sizes.numpy()).x)
        ends, hull = self.accepted.double(), (slopes * sizes).cumsum(0)
        starts = ends[:-1]
        # On a segment errors are a + s k, whose integral of errors / k is s dk + a log(k1 / k0); the first has a = 0.
        offsets = hull[:-1] - slopes[1:] * starts
        area = slopes.mul(sizes).sum() + (offsets * torch.log1p(sizes[1:] / starts)).sum()
        return area / len(self.errors)

    def augrc(self) -> Tensor:
        """Area under the generalised-risk-coverage curve (Traub et al. 2024, arXiv 2407.01032).

        The generalised risk is the share of *all* examples that is answered and wrong, errors / n; the area runs over
        coverage 0 .. 1 by the trapezoidal rule. For 0/1 risks it is (1 - AUROC_f) acc (1 - acc) + (1 - acc)^2 / 2.

        Returns:
            A float64 scalar in [0, 1/2].
        """
        return (self.errors.sum() - self.errors[-1] / 2) / len(self.errors) ** 2

    def risk_at_coverage(self, coverage: float) -> Tensor:
        """Selective risk of the smallest number of most confident examples that covers at least ``coverage``.

        Args:
            coverage: in (0, 1].

        Returns:
            A float64 scalar in [0, 1]; inside a group of ties it is the expectation over their orders.
        """
        # The slack keeps 0.07 * 100 = 7.000000000000001 from asking for an eighth example.
        k = min(max(math.ceil(coverage * len(self.errors) - 1e-9), 1), len(self.errors))
        return self.errors[k - 1] / k

    def coverage_at_risk(self, risk: float) -> Tensor:
        """The largest coverage of any existing threshold whose selective risk is at most ``risk``; 0 if there is none.

        C@R of Whitehead et al. 2022 (reliable VQA): the threshold is chosen on the same examples, and a lower coverage
        may violate the risk.

        Args:
            risk: in [0, 1]. Risks are stored as float32, and their rounding, 2^-24, is allowed on top.

        Returns:
            A float64 scalar in [0, 1].
        """
        selective = self.errors[self.accepted - 1] / self.accepted
        met = self.accepted[selective <= risk + 2.0**-24]
        return (met[-1] if len(met) else torch.zeros(())).double() / len(self.errors)


def risk_coverage_curve(confidence: Tensor, risk: Tensor) -> RiskCoverageCurve:
    """Sorts once, O(n log n); every number of this file comes from the result.

    Args:
        confidence: ``[n]``, any monotone score; compared as float32, so that a saturated softmax gives ties at 1.
        risk: ``[n]`` in [0, 1].

    Raises:
        DataError: there are no examples.
        ValueError: the shapes differ, a confidence is NaN, or a risk is outside [0, 1].
    """
    check_pairs(confidence, risk)
    require_examples(len(confidence), "risk_coverage_curve")
    # On the CPU: once per split, and cumulative sums on a GPU are not deterministic.
    confidence, order = confidence.detach().float().cpu().sort(descending=True)
    if confidence.isnan().any():
        raise ValueError(f"{int(confidence.isnan().sum())} of {len(confidence)} confidences are NaN.")
    risk = risk.detach().float().cpu()[order].double()
    if not (risk.min() >= 0 and risk.max() <= 1):
        raise ValueError(f"Risks must lie in [0, 1], got {risk.min():g} .. {risk.max():g}.")

    thresholds, sizes = torch.unique_consecutive(confidence, return_counts=True)
    accepted = sizes.cumsum(0)
    totals = risk.cumsum(0)[accepted - 1]
    before = torch.cat([totals.new_zeros(1), totals[:-1]])
    rank = torch.arange(1, len(risk) + 1) - (accepted - sizes).repeat_interleave(sizes)
    errors = before.repeat_interleave(sizes) + rank * ((totals - before) / sizes).repeat_interleave(sizes)
    errors[accepted - 1] = totals
    return RiskCoverageCurve(errors, accepted, thresholds)


def aurc(confidence: Tensor, risk: Tensor, convention: Convention = "trapezoid") -> Tensor:
    """`RiskCoverageCurve.aurc` of ``confidence [n]`` and ``risk [n]``."""
    return risk_coverage_curve(confidence, risk).aurc(convention)


def excess_aurc(confidence: Tensor, risk: Tensor, convention: Convention = "trapezoid") -> Tensor:
    """E-AURC: the AURC minus that of the oracle, which orders by the risk itself; both in the same convention.

    Geifman et al. 2019 (arXiv 1805.08206). They subtract the limit r + (1 - r) log(1 - r) for large n; here
    the oracle is the finite one, so that an optimal order has excess 0. ``achievable`` equals the limit exactly.
    """
    return aurc(confidence, risk, convention) - aurc(-risk.float(), risk, convention)


def augrc(confidence: Tensor, risk: Tensor) -> Tensor:
    """`RiskCoverageCurve.augrc` of ``confidence [n]`` and ``risk [n]``."""
    return risk_coverage_curve(confidence, risk).augrc()


def risk_at_coverage(confidence: Tensor, risk: Tensor, coverage: float) -> Tensor:
    """`RiskCoverageCurve.risk_at_coverage` of ``confidence [n]`` and ``risk [n]``."""
    return risk_coverage_curve(confidence, risk).risk_at_coverage(coverage)


def coverage_at_risk(confidence: Tensor, risk: Tensor, max_risk: float) -> Tensor:
    """`RiskCoverageCurve.coverage_at_risk` of ``confidence [n]`` and ``risk [n]``."""
    return risk_coverage_curve(confidence, risk).coverage_at_risk(max_risk)


def selective_risk(
    confidence: Tensor, risk: Tensor, coverages: Sequence[float] = COVERAGES, risks: Sequence[float] = RISKS
) -> dict[str, Tensor]:
    """`SelectiveRisk` of ``confidence [n]`` and ``risk [n]`` at once."""
    curve = risk_coverage_curve(confidence, risk)
    values = {
        "aurc": curve.aurc("trapezoid"),
        "aurc_sum": curve.aurc("sum"),
        "aurc_achievable": curve.aurc("achievable"),
        "eaurc": curve.aurc("trapezoid") - aurc(-risk.float(), risk, "trapezoid"),
        "augrc": curve.augrc(),
    }
    values |= {f"risk_at_coverage[{coverage:g}]": curve.risk_at_coverage(coverage) for coverage in coverages}
    values |= {f"coverage_at_risk[{limit:g}]": curve.coverage_at_risk(limit) for limit in risks}
    return values


class SelectiveRisk(StreamingMetric):
    """The risk-coverage family of one split: stores (confidence, risk) as float32, 8 bytes per example.

    Args:
        coverages: where to report the selective risk, each in (0, 1].
        risks: for which risks to report the coverage, each in [0, 1].
    """

    higher_is_better = False
    confidence: list[Tensor]
    risk: list[Tensor]

    def __init__(self, coverages: Sequence[float] = COVERAGES, risks: Sequence[float] = RISKS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check(all(0 < coverage <= 1 for coverage in coverages), f"coverages must lie in (0, 1], got {coverages}.")
        check(all(0 <= risk <= 1 for risk in risks), f"risks must lie in [0, 1], got {risks}.")
        self.coverages, self.risks = tuple(coverages), tuple(risks)
        self.add_list("confidence")
        self.add_list("risk")

    def update(self, confidence: Tensor, risk: Tensor) -> None:
        """Adds ``confidence [B]`` and ``risk [B]`` in [0, 1]; `ValueError` when the shapes differ."""
        check_pairs(confidence, risk)
        self.confidence.append(confidence.detach().float())
        self.risk.append(risk.detach().float())

    def compute(self) -> dict[str, Tensor]:
        """``aurc`` (trapezoid), ``aurc_sum``, ``aurc_achievable``, ``eaurc`` (trapezoid), ``augrc``,
        ``risk_at_coverage[c]`` and ``coverage_at_risk[r]``: float64 scalars on the CPU.
        """
        return selective_risk(*self._pairs(), self.coverages, self.risks)

    def curve(self) -> RiskCoverageCurve:
        """The curve of everything seen so far, for plotting."""
        with self.sync_context():
            return risk_coverage_curve(*self._pairs())

    def _pairs(self) -> tuple[Tensor, Tensor]:
        require_examples(len(self.confidence), type(self).__name__)
        return dim_zero_cat(self.confidence), dim_zero_cat(self.risk)
