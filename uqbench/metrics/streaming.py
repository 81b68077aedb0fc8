"""What the metrics share: argument checks, the error for an empty split, and a streaming mean."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from uqbench.errors import DataError


def require_examples(count: int | Tensor, name: str) -> None:
    """Raises `DataError` when ``name`` is asked for a value before it saw any example."""
    if int(count) == 0:
        raise DataError(f"{name} has seen no examples: the split is empty, or `update` was never called.")


def check_class_batch(values: Tensor, target: Tensor) -> None:
    """Raises `ValueError` unless ``values`` is ``[B, C]`` and ``target`` is an integer ``[B]``."""
    if values.ndim != 2 or target.shape != values.shape[:1]:
        raise ValueError(f"Expected [B, C] and a target [B], got {list(values.shape)} and {list(target.shape)}.")
    if target.is_floating_point():
        raise ValueError(f"Expected integer targets, got {target.dtype}.")


def check_pairs(first: Tensor, second: Tensor, ndim: int = 1) -> None:
    """Raises `ValueError` unless both tensors have the same shape with ``ndim`` axes."""
    if first.ndim != ndim or first.shape != second.shape:
        raise ValueError(f"Expected two tensors of one shape with {ndim} axes, got {first.shape} and {second.shape}.")


def mean(values: Tensor, name: str) -> Tensor:
    """The mean of ``[B]`` values in float64; `DataError` when there are none."""
    require_examples(values.numel(), name)
    return values.double().mean()


class StreamingMetric(Metric):
    """A `torchmetrics.Metric` that only accumulates: sums and stored values, reducible over processes.

    Sums are float64 and are added out of place: ``module.to(torch.bfloat16)`` also casts the states of torchmetrics,
    and the type promotion of the first addition after a reset undoes that without loss.
    """

    is_differentiable = False
    full_state_update = False

    def add_sum(self, name: str, *shape: int, dtype: torch.dtype = torch.float64) -> None:
        """Declares a state of zeros that is summed over processes."""
        self.add_state(name, torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")

    def add_list(self, name: str) -> None:
        """Declares a list of stored batches that is concatenated over processes."""
        self.add_state(name, [], dist_reduce_fx="cat")


class MeanMetric(StreamingMetric):
    """The mean of one value per example; a subclass's ``update`` hands the values ``[B]`` to `add`."""

    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_sum("total")
        self.add_sum("count", dtype=torch.int64)

    def add(self, values: Tensor) -> None:
        self.total = self.total + values.double().sum()
        self.count = self.count + values.numel()

    def compute(self) -> Tensor:
        """The mean, a float64 scalar; `DataError` before any example."""
        require_examples(self.count, type(self).__name__)
        return self.total / self.count
