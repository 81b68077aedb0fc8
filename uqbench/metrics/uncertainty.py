"""The mean uncertainty of a split and its decomposition, total = aleatoric + epistemic, in nats.

Depeweg et al. 2018 (arXiv 1710.07283): H[1/M sum_m p_m] = 1/M sum_m H[p_m] + mutual information of class and member.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from uqbench.metrics.streaming import StreamingMetric, mean, require_examples
from uqbench.predictive import Predictive


def uncertainty(predictive: Predictive) -> dict[str, Tensor]:
    """`Uncertainty` of everything at once."""
    return {
        "total_entropy": mean(predictive.total, "uncertainty"),
        "aleatoric_entropy": mean(predictive.aleatoric, "uncertainty"),
        "mutual_information": mean(predictive.epistemic, "uncertainty"),
    }


class Uncertainty(StreamingMetric):
    """Means over examples of total, aleatoric and epistemic uncertainty, in nats.

    All three are of the members' mixture, whatever the prediction averages. The mutual information is 0 for one member
    and at most log M; its plug-in estimate grows with M, so that it compares only between methods of equal M.
    """

    totals: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_sum("totals", 3)
        self.add_sum("count", dtype=torch.int64)

    def update(self, predictive: Predictive) -> None:
        """Adds a batch."""
        values = torch.stack([predictive.total, predictive.aleatoric, predictive.epistemic])
        self.totals = self.totals + values.double().sum(-1)
        self.count = self.count + values.shape[-1]

    def compute(self) -> dict[str, Tensor]:
        """``total_entropy``, ``aleatoric_entropy``, ``mutual_information``: float64 scalars >= 0, in nats."""
        require_examples(self.count, type(self).__name__)
        total, aleatoric, epistemic = self.totals / self.count
        return {"total_entropy": total, "aleatoric_entropy": aleatoric, "mutual_information": epistemic}
