"""The one place that folds the member axis into the batch, and the one place that unfolds it.

Folded tensors are member-major: rows ``m*B .. (m+1)*B`` belong to member ``m``.
"""

from __future__ import annotations

from torch import Tensor


def fan_out(x: Tensor, num_members: int) -> Tensor:
    """Gives every member its own copy of a shared batch: ``[B, ...] -> [M*B, ...]``."""
    return x if num_members == 1 else x.expand(num_members, *x.shape).flatten(0, 1)


def fold(x: Tensor) -> Tensor:
    """Folds an explicit member axis into the batch: ``[M, B, ...] -> [M*B, ...]``."""
    return x.flatten(0, 1)


def unfold(x: Tensor, num_members: int) -> Tensor:
    """Makes the member axis explicit: ``[M*B, ...] -> [M, B, ...]``.

    Raises:
        ValueError: if the rows do not divide into the members.
    """
    if len(x) % num_members:
        raise ValueError(f"{len(x)} rows cannot be unfolded into {num_members} members: was the batch fanned out?")
    return x.unflatten(0, (num_members, -1))
