"""Stratified, nested, reproducible choices of rows."""

from __future__ import annotations

import torch
from torch import Tensor

from uqbench.errors import check
from uqbench.seeding import generator


def stratified_order(labels: Tensor, seed: int, *name: str | int) -> Tensor:
    """An order of the rows in which every prefix has the classes in about the proportions of the whole.

    The j-th row (from 0) of a class with n rows, in random order, stands at (j + 1/2) / n: the classes are interleaved
    evenly, and ties are broken at random. A prefix of N rows of a set with equally many rows per class therefore has
    floor or ceil of N / C of each, and of any set within two rows of its share. Prefixes are nested.

    Args:
        labels: class of each row, int64 ``[N]``.
        seed: seed of the choice.
        *name: what the rows are chosen for (see `uqbench.seeding.named_seed`).

    Returns:
        A permutation of the rows, int64 ``[N]``.
    """
    draws = generator(seed, *name)
    shuffled = torch.randperm(len(labels), generator=draws)
    # A stable sort by class of the shuffled rows puts each class's rows together, in random order.
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    sizes = torch.unique_consecutive(labels[by_class], return_counts=True)[1]
    starts = sizes.cumsum(0) - sizes
    rank = torch.arange(len(labels)) - starts.repeat_interleave(sizes)
    position = (rank.double() + 0.5) / sizes.repeat_interleave(sizes)
    # Ties fall to the classes in an order of their own in each round, so that no class is always first.
    tie = torch.rand(len(labels), generator=draws)
    first = tie.argsort()
    return by_class[first[position[first].argsort(stable=True)]]


def stratified_subset(labels: Tensor, size: int, seed: int, *name: str | int) -> Tensor:
    """``size`` rows of `stratified_order`, ascending, int64; a smaller subset lies inside a larger one."""
    return stratified_order(labels, seed, *name)[:size].sort().values


def hold_out(labels: Tensor, rows: Tensor, fraction: float, seed: int, what: str) -> tuple[Tensor, Tensor]:
    """Divides rows into a stratified share and the rest.

    Args:
        labels: class of every row of the set, int64 ``[N]``.
        rows: the rows to divide, ascending.
        fraction: the share, rounded to whole rows.
        seed: seed of the choice.
        what: "val" or "test", the name of the random stream and of the setting ``data.<what>_fraction``.

    Returns:
        The share and the rest, both ascending.

    Raises:
        ConfigError: the share or the rest would be empty.
    """
    size = round(fraction * len(rows))
    check(0 < size < len(rows), f"data.{what}_fraction={fraction} of {len(rows)} rows holds out none, or leaves none")
    held = torch.zeros(len(rows), dtype=torch.bool)
    held[stratified_subset(labels[rows], size, seed, "split", what)] = True
    return rows[held], rows[~held]
