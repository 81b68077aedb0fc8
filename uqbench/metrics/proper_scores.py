"""Accuracy and the two proper scores, negative log-likelihood and Brier (Gneiting & Raftery 2007, JASA 102:477)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from uqbench.metrics.streaming import MeanMetric, check_class_batch, mean


def _correct(scores: Tensor, target: Tensor) -> Tensor:
    check_class_batch(scores, target)
    return scores.argmax(dim=-1) == target


def _nll(log_probs: Tensor, target: Tensor) -> Tensor:
    check_class_batch(log_probs, target)
    return -log_probs.gather(-1, target.long().unsqueeze(-1)).squeeze(-1)


def _brier(probs: Tensor, target: Tensor) -> Tensor:
    check_class_batch(probs, target)
    return (probs.double() - F.one_hot(target.long(), probs.shape[-1])).square().sum(-1)


def accuracy(scores: Tensor, target: Tensor) -> Tensor:
    """Share of examples whose most probable class is the target; `Accuracy` on everything at once.

    Args:
        scores: ``[B, C]`` probabilities, log probabilities or logits.
        target: ``[B]`` integer classes.

    Returns:
        A float64 scalar in [0, 1].
    """
    return mean(_correct(scores, target), "accuracy")


def negative_log_likelihood(log_probs: Tensor, target: Tensor) -> Tensor:
    """Mean of -log p(target) in nats; `NegativeLogLikelihood` on everything at once.

    Args:
        log_probs: ``[B, C]`` log probabilities, normalised over C.
        target: ``[B]`` integer classes.

    Returns:
        A float64 scalar >= 0.
    """
    return mean(_nll(log_probs, target), "negative_log_likelihood")


def brier(probs: Tensor, target: Tensor) -> Tensor:
    """Mean over examples of sum_c (p_c - 1[c = target])^2; `Brier` on everything at once.

    Args:
        probs: ``[B, C]`` probabilities.
        target: ``[B]`` integer classes.

    Returns:
        A float64 scalar in [0, 2].
    """
    return mean(_brier(probs, target), "brier")


class Accuracy(MeanMetric):
    """Share of examples whose most probable class is the target, in [0, 1].

    Equal scores: the class with the lowest index counts as the prediction.
    """

    higher_is_better = True

    def update(self, scores: Tensor, target: Tensor) -> None:
        """Adds ``scores [B, C]`` (probabilities, log probabilities or logits) against ``target [B]``.

        Raises:
            ValueError: the shapes do not fit, or the targets are not integers.
        """
        self.add(_correct(scores, target))


class NegativeLogLikelihood(MeanMetric):
    """Mean of -log p(target), in nats.

    Of log probabilities, so that nothing is clipped: codes that clip probabilities (often at 1e-12) bound one example's
    loss at 27.6 nats, this one does not. It is infinite when a target has probability exactly 0.
    """

    higher_is_better = False

    def update(self, log_probs: Tensor, target: Tensor) -> None:
        """Adds ``log_probs [B, C]`` against ``target [B]``.

        Raises:
            ValueError: the shapes do not fit, or the targets are not integers.
        """
        self.add(_nll(log_probs, target))


class Brier(MeanMetric):
    """The Brier score (Brier 1950): mean over examples of sum_c (p_c - 1[c = target])^2, in [0, 2].

    Convention: summed over classes. Some papers divide by C (e.g. Lakshminarayanan et al. 2017, section 3.1), and for
    C = 2 scikit-learn's default is half of this.
    """

    higher_is_better = False

    def update(self, probs: Tensor, target: Tensor) -> None:
        """Adds ``probs [B, C]`` against ``target [B]``.

        Raises:
            ValueError: the shapes do not fit, or the targets are not integers.
        """
        self.add(_brier(probs, target))
