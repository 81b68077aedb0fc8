"""Out-of-distribution detection: how well a score separates the test split from another data set.

Conventions: OOD is the positive class and a higher score means more OOD; AUPR is average precision, and depends on the
share of OOD examples, so that it compares only between runs on the same two sets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

from uqbench.metrics.streaming import StreamingMetric, require_examples
from uqbench.predictive import Predictive

OOD_SCORES: dict[str, Callable[[Predictive], Tensor]] = {
    "max_probability": lambda predictive: 1 - predictive.confidence.double(),
    "total_entropy": lambda predictive: predictive.total,
    "mutual_information": lambda predictive: predictive.epistemic,
}


def ood_scores(predictive: Predictive) -> dict[str, Tensor]:
    """The scores of a batch, each ``[B]`` float32; `OODScores` on everything at once.

    ``max_probability``: 1 - max_c p_c (Hendrycks & Gimpel 2017, arXiv 1610.02136). ``total_entropy``: H[p] of the
    members' mixture, in nats. ``mutual_information``: the epistemic part of it; constantly 0 for one member, which
    detects nothing (AUROC 1/2).
    """
    return {name: score(predictive).detach().float() for name, score in OOD_SCORES.items()}


def ood_detection(id_scores: Tensor, ood_scores: Tensor) -> dict[str, Tensor]:
    """AUROC, AUPR and FPR95 of one score, exact under ties (torchmetrics squeezes scores beyond [0, 1] by a sigmoid).

    Args:
        id_scores: ``[n]`` scores of in-distribution examples.
        ood_scores: ``[m]`` scores of out-of-distribution examples; higher = more OOD.

    Returns:
        float64 scalars in [0, 1]. ``auroc``: P(OOD score > ID score) + P(equal) / 2. ``aupr``: average precision
        sum_i (recall_i - recall_(i-1)) precision_i over the distinct thresholds, OOD positive; its chance level is
        m / (n + m). ``fpr95``: the share of ID examples with a score >= t, where t is the highest threshold at which at
        least 95 % of the OOD examples have a score >= t.

    Raises:
        DataError: one of the two sets is empty.
        ValueError: a score is NaN, or the scores are not ``[n]`` and ``[m]``.
    """
    if id_scores.ndim != 1 or ood_scores.ndim != 1:
        raise ValueError(f"Expected scores [n] and [m], got {list(id_scores.shape)} and {list(ood_scores.shape)}.")
    require_examples(len(id_scores), "ood_detection (in-distribution)")
    require_examples(len(ood_scores), "ood_detection (out-of-distribution)")
    # On the CPU: once per split, and cumulative sums on a GPU are not deterministic.
    negative = id_scores.detach().cpu().double().sort().values
    positive = ood_scores.detach().cpu().double().sort().values
    if negative.isnan().any() or positive.isnan().any():
        raise ValueError("An OOD score is NaN.")
    n, m = len(negative), len(positive)

    below = torch.searchsorted(negative, positive)
    not_above = torch.searchsorted(negative, positive, right=True)
    auroc = (below + not_above).sum().double() / (2 * n * m)

    thresholds, sizes = torch.unique_consecutive(positive, return_counts=True)
    detected = m - (sizes.cumsum(0) - sizes)
    flagged = n - torch.searchsorted(negative, thresholds)
    # Thresholds at which no further OOD example is detected add no recall.
    aupr = (sizes * (detected / (detected + flagged).double())).sum() / m

    # In integers: 0.95 * m may round to just above a whole number.
    at_least = (95 * m + 99) // 100
    threshold = positive[m - at_least]
    fpr95 = (negative >= threshold).double().mean()
    return {"auroc": auroc, "aupr": aupr, "fpr95": fpr95}


def ood_metrics(id_scores: dict[str, Tensor], ood_scores: dict[str, Tensor]) -> dict[str, Tensor]:
    """`ood_detection` for every score: keys ``auroc[max_probability]``, ``aupr[...]``, ``fpr95[...]`` and so on.

    Args:
        id_scores, ood_scores: what `OODScores.compute` returned for the test split and for the OOD split.
    """
    values: dict[str, Tensor] = {}
    for name in id_scores:
        # torchmetrics turns what a metric computes of a single example into a scalar.
        detection = ood_detection(torch.atleast_1d(id_scores[name]), torch.atleast_1d(ood_scores[name]))
        values |= {f"{metric}[{name}]": value for metric, value in detection.items()}
    return values


class OODScores(StreamingMetric):
    """Collects the OOD scores of one split, float32: 12 bytes per example."""

    max_probability: list[Tensor]
    total_entropy: list[Tensor]
    mutual_information: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in OOD_SCORES:
            self.add_list(name)

    def update(self, predictive: Predictive) -> None:
        """Adds a batch."""
        for name, score in ood_scores(predictive).items():
            getattr(self, name).append(score)

    def compute(self) -> dict[str, Tensor]:
        """Each score of every example seen, ``[n]`` float32; for `ood_metrics` and for histograms."""
        require_examples(len(self.max_probability), type(self).__name__)
        return {name: dim_zero_cat(getattr(self, name)) for name in OOD_SCORES}
