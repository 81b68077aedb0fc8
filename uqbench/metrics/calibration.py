"""Calibration errors: the distance between confidence and accuracy, in bins of confidence.

Conventions of this file:
    * Equal-width bins are (lo, hi], K of them over [0, 1]; confidence 0 belongs to the first bin, confidence 1 to the
      last (there is no bin beyond it). The edges b / K are rounded to the dtype of the confidence, so that a confidence
      that *is* an edge in its own precision belongs to the lower bin.
    * Errors are L1: a bin weighs its share of the examples, its gap is |mean confidence - accuracy|, not squared.
    * ``correct`` may be soft, any value in [0, 1] (for example the fractional accuracy of visual question answering).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

from uqbench.errors import check
from uqbench.metrics.streaming import StreamingMetric, check_class_batch, check_pairs, require_examples


@dataclass(frozen=True, eq=False)
class CalibrationBins:
    """The K bins of a reliability diagram, on the CPU.

    Attributes:
        edges: ``[K + 1]`` float64; bin b is (edges[b], edges[b + 1]].
        count: ``[K]`` int64, examples per bin.
        confidence: ``[K]`` float64, mean confidence; NaN in an empty bin.
        accuracy: ``[K]`` float64, mean correctness; NaN in an empty bin.
    """

    edges: Tensor
    count: Tensor
    confidence: Tensor
    accuracy: Tensor


def bin_index(confidence: Tensor, num_bins: int) -> Tensor:
    """The equal-width bin in 0 .. K-1 of each confidence, any shape, int64."""
    if confidence.dtype not in (torch.float32, torch.float64):
        confidence = confidence.float()
    inner = torch.arange(1, num_bins, dtype=torch.float64, device=confidence.device) / num_bins
    return torch.bucketize(confidence.contiguous(), inner.to(confidence.dtype))


def _sums(confidence: Tensor, correct: Tensor, index: Tensor, num_bins: int) -> Tensor:
    """Count, sum of confidence and sum of correctness per bin, ``[3, R, K]`` float64, of R rows ``[R, B]``."""
    rows = len(confidence)
    index = index + num_bins * torch.arange(rows, device=index.device).unsqueeze(-1)
    values = torch.stack([torch.ones_like(confidence, dtype=torch.float64), confidence.double(), correct.double()])
    sums = values.new_zeros(3, rows * num_bins).index_add_(1, index.flatten(), values.flatten(1))
    return sums.view(3, rows, num_bins)


def _equal_width_sums(confidence: Tensor, correct: Tensor, num_bins: int) -> Tensor:
    return _sums(confidence, correct, bin_index(confidence, num_bins), num_bins)


def _expected_gap(sums: Tensor) -> Tensor:
    """sum_b n_b / n |confidence_b - accuracy_b| of sums ``[3, R, K]``, per row ``[R]``."""
    return (sums[1] - sums[2]).abs().sum(-1) / sums[0].sum(-1)


def _maximum_gap(sums: Tensor) -> Tensor:
    """max_b |confidence_b - accuracy_b| over the bins that have examples, per row ``[R]``."""
    return ((sums[1] - sums[2]).abs() / sums[0].clamp_min(1)).amax(-1)


def _bins(sums: Tensor) -> CalibrationBins:
    count, confidence, correct = sums[:, 0].cpu()
    edges = torch.arange(len(count) + 1, dtype=torch.float64) / len(count)
    return CalibrationBins(edges, count.long(), confidence / count, correct / count)


def _adaptive_sums(confidence: Tensor, correct: Tensor, num_bins: int) -> Tensor:
    # On the CPU: once per split, in an order that does not depend on the device.
    confidence, order = confidence.float().cpu().sort()
    correct = correct.float().cpu()[order]
    _, sizes = torch.unique_consecutive(confidence, return_counts=True)
    ends = sizes.cumsum(0)
    # A group of equal confidences on the ranks [start, end) goes by the middle of its ranks, in exact arithmetic.
    index = (num_bins * (2 * ends - sizes)) // (2 * len(confidence))
    return _sums(confidence[None], correct[None], index.repeat_interleave(sizes)[None], num_bins)


def calibration_bins(confidence: Tensor, correct: Tensor, num_bins: int = 15) -> CalibrationBins:
    """The equal-width bins of ``confidence [B]`` and ``correct [B]``, for a reliability diagram."""
    check_pairs(confidence, correct)
    return _bins(_equal_width_sums(confidence[None], correct[None], num_bins))


def calibration_error(confidence: Tensor, correct: Tensor, num_bins: int = 15) -> Tensor:
    """`CalibrationError` of ``confidence [B]`` and ``correct [B]`` at once."""
    check_pairs(confidence, correct)
    require_examples(len(confidence), "calibration_error")
    return _expected_gap(_equal_width_sums(confidence[None], correct[None], num_bins))[0]


def maximum_calibration_error(confidence: Tensor, correct: Tensor, num_bins: int = 15) -> Tensor:
    """`MaximumCalibrationError` of ``confidence [B]`` and ``correct [B]`` at once."""
    check_pairs(confidence, correct)
    require_examples(len(confidence), "maximum_calibration_error")
    return _maximum_gap(_equal_width_sums(confidence[None], correct[None], num_bins))[0]


def member_calibration_error(confidence: Tensor, correct: Tensor, num_bins: int = 15) -> Tensor:
    """`MemberCalibrationError` of ``confidence [M, B]`` and ``correct [M, B]`` at once."""
    check_pairs(confidence, correct, ndim=2)
    require_examples(confidence.shape[1], "member_calibration_error")
    return _expected_gap(_equal_width_sums(confidence, correct, num_bins)).mean()


def adaptive_calibration_error(confidence: Tensor, correct: Tensor, num_bins: int = 15) -> Tensor:
    """`AdaptiveCalibrationError` of ``confidence [B]`` and ``correct [B]`` at once."""
    check_pairs(confidence, correct)
    require_examples(len(confidence), "adaptive_calibration_error")
    return _expected_gap(_adaptive_sums(confidence, correct, num_bins))[0]


def classwise_calibration_error(probs: Tensor, target: Tensor, num_bins: int = 15) -> Tensor:
    """`ClasswiseCalibrationError` of ``probs [B, C]`` and ``target [B]`` at once."""
    check_class_batch(probs, target)
    require_examples(len(probs), "classwise_calibration_error")
    return _classwise_gaps(probs, target, num_bins).abs().sum(-1).mean() / len(probs)


def _classwise_gaps(probs: Tensor, target: Tensor, num_bins: int) -> Tensor:
    """Per class and bin, the sum of the class's probabilities minus the number of its targets, ``[C, K]`` float64."""
    classes = probs.shape[1]
    cell = bin_index(probs, num_bins) + num_bins * torch.arange(classes, device=probs.device)
    gaps = torch.zeros(classes * num_bins, dtype=torch.float64, device=probs.device)
    gaps.index_add_(0, cell.flatten(), probs.double().flatten())
    hit = cell.gather(1, target.long().unsqueeze(-1)).squeeze(-1)
    gaps.index_add_(0, hit, -torch.ones_like(hit, dtype=torch.float64))
    return gaps.view(classes, num_bins)


class _EqualWidth(StreamingMetric):
    """Holds count, confidence sum and correct sum of K equal-width bins for R rows; memory does not grow."""

    higher_is_better = False
    sums: Tensor

    def __init__(self, num_bins: int, rows: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check(num_bins >= 1, f"num_bins must be at least 1, got {num_bins}.")
        self.num_bins, self.rows = num_bins, rows
        self.add_sum("sums", 3, rows, num_bins)

    def update(self, confidence: Tensor, correct: Tensor) -> None:
        """Adds ``confidence [B]`` in [0, 1] and ``correct [B]`` in [0, 1] (bool, integer or float).

        Raises:
            ValueError: the shapes differ.
        """
        check_pairs(confidence, correct)
        self.sums = self.sums + _equal_width_sums(confidence[None], correct[None], self.num_bins)

    def _seen(self) -> Tensor:
        require_examples(self.sums[0].sum(), type(self).__name__)
        return self.sums


class CalibrationError(_EqualWidth):
    """Expected calibration error (Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599, section 2).

    ECE = sum_b n_b / n |accuracy_b - confidence_b| over equal-width bins of the confidence.

    Args:
        num_bins: K; 15 as in Guo et al.
    """

    def __init__(self, num_bins: int = 15, **kwargs: Any) -> None:
        super().__init__(num_bins, **kwargs)

    def compute(self) -> Tensor:
        """The error in [0, 1], a float64 scalar."""
        return _expected_gap(self._seen())[0]

    def bins(self) -> CalibrationBins:
        """The bins of everything seen so far, on the CPU, for a reliability diagram."""
        with self.sync_context():
            return _bins(self._seen())


class MaximumCalibrationError(_EqualWidth):
    """Maximum calibration error (Naeini et al. 2015; Guo et al. 2017, section 2): the largest gap of any bin.

    Args:
        num_bins: K equal-width bins; an empty bin has no gap, any other counts however few examples it has.
    """

    def __init__(self, num_bins: int = 15, **kwargs: Any) -> None:
        super().__init__(num_bins, **kwargs)

    def compute(self) -> Tensor:
        """The error in [0, 1], a float64 scalar."""
        return _maximum_gap(self._seen())[0]


class MemberCalibrationError(_EqualWidth):
    """The mean over members of each member's own expected calibration error, for the gain of the ensemble over them.

    Args:
        num_members: M.
        num_bins: K equal-width bins.
    """

    def __init__(self, num_members: int, num_bins: int = 15, **kwargs: Any) -> None:
        super().__init__(num_bins, rows=num_members, **kwargs)

    def update(self, confidence: Tensor, correct: Tensor) -> None:
        """Adds ``confidence [M, B]`` and ``correct [M, B]``.

        Raises:
            ValueError: the shapes differ, or M is not ``num_members``.
        """
        check_pairs(confidence, correct, ndim=2)
        if len(confidence) != self.rows:
            raise ValueError(f"Made for {self.rows} members, got {len(confidence)}.")
        self.sums = self.sums + _equal_width_sums(confidence, correct, self.num_bins)

    def compute(self) -> Tensor:
        """The mean error in [0, 1], a float64 scalar."""
        return _expected_gap(self._seen()).mean()


class AdaptiveCalibrationError(StreamingMetric):
    """Expected calibration error over bins of equal mass (Nguyen & O'Connor 2015, arXiv 1508.05154).

    Bin b takes the b-th of K equal parts of the ranks by confidence. Equal confidences share a bin, the one of the
    middle of their ranks, so that the value does not depend on the order of rows. Without ties and with n divisible by
    K, every bin has n / K examples.

    Stores confidence and correctness as float32, 8 bytes per example.

    Args:
        num_bins: K.
    """

    higher_is_better = False
    confidence: list[Tensor]
    correct: list[Tensor]

    def __init__(self, num_bins: int = 15, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check(num_bins >= 1, f"num_bins must be at least 1, got {num_bins}.")
        self.num_bins = num_bins
        self.add_list("confidence")
        self.add_list("correct")

    def update(self, confidence: Tensor, correct: Tensor) -> None:
        """Adds ``confidence [B]`` and ``correct [B]``, both in [0, 1]; `ValueError` when the shapes differ."""
        check_pairs(confidence, correct)
        self.confidence.append(confidence.detach().float())
        self.correct.append(correct.detach().float())

    def compute(self) -> Tensor:
        """The error in [0, 1], a float64 scalar."""
        require_examples(len(self.confidence), type(self).__name__)
        return adaptive_calibration_error(dim_zero_cat(self.confidence), dim_zero_cat(self.correct), self.num_bins)


class ClasswiseCalibrationError(StreamingMetric):
    """Classwise expected calibration error (Kull et al. 2019, arXiv 1910.12656, section 2).

    1/C sum_c sum_b n_bc / n |frequency of class c in the bin - mean p_c in the bin|, every class with its own K
    equal-width bins of p_c over *all* examples. Classes weigh the same; nothing is thresholded away.

    Args:
        num_classes: C.
        num_bins: K.
    """

    higher_is_better = False
    gaps: Tensor
    count: Tensor

    def __init__(self, num_classes: int, num_bins: int = 15, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check(num_bins >= 1, f"num_bins must be at least 1, got {num_bins}.")
        self.num_classes, self.num_bins = num_classes, num_bins
        self.add_sum("gaps", num_classes, num_bins)
        self.add_sum("count", dtype=torch.int64)

    def update(self, probs: Tensor, target: Tensor) -> None:
        """Adds ``probs [B, C]`` against integer ``target [B]``.

        Raises:
            ValueError: the shapes do not fit, or C is not ``num_classes``.
        """
        check_class_batch(probs, target)
        if probs.shape[1] != self.num_classes:
            raise ValueError(f"Made for {self.num_classes} classes, got {probs.shape[1]}.")
        self.gaps = self.gaps + _classwise_gaps(probs, target, self.num_bins)
        self.count = self.count + len(target)

    def compute(self) -> Tensor:
        """The error in [0, 2/C], a float64 scalar."""
        require_examples(self.count, type(self).__name__)
        return self.gaps.abs().sum(-1).mean() / self.count
