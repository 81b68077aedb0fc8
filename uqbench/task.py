"""What a target, a loss and an output are. Today: single-label classification."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from uqbench.errors import check
from uqbench.predictive import Average, Predictive


class Classification:
    """Single-label classification: softmax outputs, cross-entropy loss.

    Attributes:
        name: what methods list in their ``tasks``.
        num_outputs: logits per example, C.
    """

    name = "classification"

    def __init__(self, num_classes: int):
        check(num_classes >= 2, f"data.num_classes must be at least 2, got {num_classes}")
        self.num_outputs = num_classes

    def member_losses(self, member_logits: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy of each member in nats, ``[M]``.

        Args:
            member_logits: ``[M, B, C]``.
            target: ``[B]`` if the members share the batch, else ``[M*B]`` member-major.
        """
        members, batch, classes = member_logits.shape
        target = target.expand(members, batch) if len(target) == batch else target.view(members, batch)
        losses = F.cross_entropy(member_logits.reshape(-1, classes).float(), target.reshape(-1), reduction="none")
        return losses.view(members, batch).mean(dim=1)

    def predictive(self, member_logits: Tensor, average: Average = "probs") -> Predictive:
        """The predictive distribution of ``member_logits`` ``[M, B, C]``."""
        return Predictive(member_logits, average)
