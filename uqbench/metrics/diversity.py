"""How differently the members predict: the mean over pairs of members of three distances (Fort et al. 2019).

For one member there are no pairs: the functions raise, and the metric's ``compute`` returns an empty dict.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from uqbench.metrics.streaming import StreamingMetric, mean, require_examples


def _check_members(members: Tensor) -> int:
    if members.ndim != 3 or len(members) < 2:
        raise ValueError(f"Expected [M, B, C] with at least two members, got {list(members.shape)}.")
    return len(members)


def pairwise_disagreement(member_scores: Tensor) -> Tensor:
    """Share of the pairs of members that predict different classes, per example.

    1 - sum_c C(n_c, 2) / C(M, 2), where n_c members predict class c (Fort et al. 2019, arXiv 1912.02757, there of one
    pair). Not normalised by the error rate.

    Args:
        member_scores: ``[M, B, C]`` probabilities, log probabilities or logits, M >= 2.

    Returns:
        ``[B]`` float64 in [0, 1].
    """
    members = _check_members(member_scores)
    votes = F.one_hot(member_scores.argmax(-1), member_scores.shape[-1]).sum(0)
    return 1 - (votes * (votes - 1)).sum(-1).double() / (members * (members - 1))


def pairwise_kl(member_log_probs: Tensor) -> Tensor:
    """Mean over ordered pairs i != j of KL(p_i || p_j), that is the symmetrised pairwise KL, per example.

    Half the mean Jeffreys divergence: sum_c (p_i - p_j)(log p_i - log p_j) / 2 averaged over pairs, which is the sum
    over classes of the members' sample covariance of p_c and log p_c; so it costs O(M C), not O(M^2 C).

    Args:
        member_log_probs: ``[M, B, C]`` log probabilities, M >= 2.

    Returns:
        ``[B]`` float64 >= 0 in nats; infinite where only some members give a class probability exactly 0.
    """
    members = _check_members(member_log_probs)
    log_probs = member_log_probs.double()
    impossible = log_probs.isneginf()
    probs, log_probs = log_probs.exp(), log_probs.masked_fill(impossible, 0)
    covariance = (probs - probs.mean(0)) * (log_probs - log_probs.mean(0))
    divergence = (covariance.sum(dim=(0, -1)) / (members - 1)).clamp_min(0)
    return divergence.masked_fill((impossible.any(0) & ~impossible.all(0)).any(-1), torch.inf)


def pairwise_cosine(member_probs: Tensor) -> Tensor:
    """Mean over pairs of members of the cosine of their probability vectors, per example.

    Args:
        member_probs: ``[M, B, C]`` probabilities, M >= 2.

    Returns:
        ``[B]`` float64 in [0, 1]; 1 when all members agree.
    """
    members = _check_members(member_probs)
    units = F.normalize(member_probs.double(), dim=-1)
    # The square of the sum holds every ordered pair and, on its diagonal, M ones.
    return (units.sum(0).square().sum(-1) - units.square().sum(dim=(0, -1))) / (members * (members - 1))


def diversity(member_log_probs: Tensor) -> dict[str, Tensor]:
    """`Diversity` of ``member_log_probs [M, B, C]`` at once; an empty dict for M = 1."""
    require_examples(member_log_probs.shape[1], "diversity")
    if len(member_log_probs) == 1:
        return {}
    return {
        "disagreement": mean(pairwise_disagreement(member_log_probs), "diversity"),
        "kl": mean(pairwise_kl(member_log_probs), "diversity"),
        "cosine": mean(pairwise_cosine(member_log_probs.exp()), "diversity"),
    }


class Diversity(StreamingMetric):
    """Means over examples of pairwise disagreement, symmetrised KL (nats) and cosine of the members' probabilities.

    Undefined for one member: ``update`` then only counts, and ``compute`` returns an empty dict.
    """

    totals: Tensor
    count: Tensor
    paired: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_sum("totals", 3)
        self.add_sum("count", dtype=torch.int64)
        self.add_sum("paired", dtype=torch.int64)

    def update(self, member_log_probs: Tensor) -> None:
        """Adds ``member_log_probs [M, B, C]``."""
        examples = member_log_probs.shape[1]
        self.count = self.count + examples
        if len(member_log_probs) == 1:
            return
        values = [
            pairwise_disagreement(member_log_probs),
            pairwise_kl(member_log_probs),
            pairwise_cosine(member_log_probs.exp()),
        ]
        self.totals = self.totals + torch.stack(values).sum(-1)
        self.paired = self.paired + examples

    def compute(self) -> dict[str, Tensor]:
        """``disagreement``, ``kl``, ``cosine``: float64 scalars; empty for one member."""
        require_examples(self.count, type(self).__name__)
        if self.paired == 0:
            return {}
        disagreement, kl, cosine = self.totals / self.paired
        return {"disagreement": disagreement, "kl": kl, "cosine": cosine}
