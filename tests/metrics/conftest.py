from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric


@pytest.fixture
def stream() -> Callable[..., Any]:
    """Feeds a metric in uneven batches along an axis, half of them through a second process's copy, and computes."""

    def run(make: Callable[[], Metric], *arrays: Tensor, axis: int = 0, sizes: tuple[int, ...] = (1, 7, 20)) -> Any:
        size = arrays[0].shape[axis]
        bounds, i = [0], 0
        while bounds[-1] < size:
            bounds.append(min(bounds[-1] + sizes[i % len(sizes)], size))
            i += 1
        metric, other = make(), make()
        for i, (start, end) in enumerate(pairwise(bounds)):
            # Targets have one axis; everything else is batched along `axis`.
            batch = [a[start:end] if a.ndim == 1 else a.narrow(axis, start, end - start) for a in arrays]
            (metric if i % 2 == 0 else other).update(*batch)
        metric.merge_state(other)
        return metric.compute()

    return run


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
