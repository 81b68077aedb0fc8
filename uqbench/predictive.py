"""What every method returns for a batch: a predictive distribution over classes, with its members where it has them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

Average = Literal["probs", "logits"]


def entropy(log_probs: Tensor) -> Tensor:
    """Shannon entropy in nats of log probabilities ``[..., C]``; 0 log 0 counts as 0."""
    probs = log_probs.exp()
    return -torch.where(probs > 0, probs * log_probs, torch.zeros_like(probs)).sum(-1)


@dataclass(frozen=True)
class Predictive:
    """The predictive distribution of M members on B examples over C classes.

    Attributes:
        member_logits: ``[M, B, C]``; M = 1 for a deterministic network.
        average: what the members' mean is taken of. ``probs`` (default): the mixture p = 1/M sum_m softmax(z_m), the
            Bayesian model average. ``logits``: p = softmax(1/M sum_m z_m), a sharper product of experts that some
            official codes use.
        temperature: the logits are divided by it (Guo et al. 2017, arXiv 1706.04599); one value for all members.
    """

    member_logits: Tensor
    average: Average = "probs"
    temperature: float = 1.0

    def with_temperature(self, temperature: float) -> Predictive:
        """The same members at another temperature."""
        return replace(self, temperature=temperature)

    @cached_property
    def member_log_probs(self) -> Tensor:
        """log softmax of each member, ``[M, B, C]``, in float32 at least."""
        logits = self.member_logits
        if logits.dtype not in (torch.float32, torch.float64):
            logits = logits.float()
        return torch.log_softmax(logits / self.temperature, dim=-1)

    @cached_property
    def mixture_log_probs(self) -> Tensor:
        """log of the mean of the members' probabilities, ``[B, C]``."""
        members = self.member_log_probs
        return torch.logsumexp(members, dim=0) - torch.log(members.new_tensor(len(members)))

    @cached_property
    def log_probs(self) -> Tensor:
        """log predictive probabilities ``[B, C]``, averaged as ``average`` says."""
        if self.average == "probs":
            return self.mixture_log_probs
        # The log softmax of mean log probabilities equals that of mean logits: they differ by a constant per row.
        return torch.log_softmax(self.member_log_probs.mean(dim=0), dim=-1)

    @cached_property
    def probs(self) -> Tensor:
        """Predictive probabilities ``[B, C]``."""
        return self.log_probs.exp()

    @property
    def member_probs(self) -> Tensor:
        """Each member's probabilities ``[M, B, C]``."""
        return self.member_log_probs.exp()

    @property
    def prediction(self) -> Tensor:
        """The most probable class ``[B]``."""
        return self.log_probs.argmax(dim=-1)

    @property
    def confidence(self) -> Tensor:
        """The probability of the most probable class ``[B]``."""
        return self.probs.amax(dim=-1)

    @cached_property
    def total(self) -> Tensor:
        """Total uncertainty H[1/M sum_m p_m] in nats, ``[B]``; of the mixture, whatever ``average`` is."""
        return entropy(self.mixture_log_probs)

    @cached_property
    def aleatoric(self) -> Tensor:
        """Aleatoric uncertainty 1/M sum_m H[p_m] in nats, ``[B]``."""
        return entropy(self.member_log_probs).mean(dim=0)

    @cached_property
    def epistemic(self) -> Tensor:
        """Epistemic uncertainty = mutual information = total - aleatoric >= 0 in nats, ``[B]``; 0 for one member.

        1/M sum_m KL(p_m || p) with every term non-negative: since probabilities sum to one, KL(p || q) is also
        sum_c p_c (d_c + e^{-d_c} - 1) with d_c = log p_c - log q_c. As a difference of entropies, or as the plain sum
        of p_c d_c, the mutual information of nearly equal members would be rounding noise.
        """
        members, mixture = self.member_log_probs, self.mixture_log_probs
        gap, probs = members - mixture, members.exp()
        near = probs * (gap + torch.expm1(-gap.clamp(-1, 1)))
        # Far from equal nothing cancels; there e^{-d} p = q is exact, and may be large where p underflows.
        far = torch.where(probs > 0, probs * gap, torch.zeros_like(probs)) - probs + mixture.exp()
        return torch.where(gap.abs() < 1, near, far).sum(-1).mean(0)
