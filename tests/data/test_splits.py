"""Stratified choices of rows: counts by hand, nesting, independence of what they are for."""

import itertools

import pytest
import torch

from uqbench.data.splits import hold_out, stratified_order, stratified_subset
from uqbench.errors import ConfigError


def test_equal_classes_are_equal_in_every_whole_round():
    labels = torch.arange(70) % 7
    order = stratified_order(labels, 0, "x")
    assert torch.equal(order.sort().values, torch.arange(70))
    for rounds in range(1, 11):
        assert labels[order[: 7 * rounds]].bincount().tolist() == [rounds] * 7


def test_unequal_classes_keep_their_shares_in_every_prefix():
    sizes = [5, 20, 75, 300]
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate(sizes)])[torch.randperm(400)]
    order = stratified_order(labels, 3, "x")
    for n in range(1, 401):
        counts = labels[order[:n]].bincount(minlength=4)
        shares = torch.tensor(sizes) * n / 400
        assert (counts - shares).abs().max() < 2
    assert labels[order[:80]].bincount().tolist() == [1, 4, 15, 60]


def test_subsets_have_exactly_n_rows_and_are_nested():
    labels = torch.randint(10, (500,), generator=torch.Generator().manual_seed(0))
    subsets = [stratified_subset(labels, n, 0, "limit") for n in (1, 17, 100, 333, 500)]
    assert [len(s) for s in subsets] == [1, 17, 100, 333, 500]
    for small, large in itertools.pairwise(subsets):
        assert set(small.tolist()) < set(large.tolist())
        assert torch.equal(large, large.sort().values)


def test_the_choice_depends_on_seed_and_name_and_nothing_else():
    labels = torch.arange(100) % 5
    torch.manual_seed(1)
    first = stratified_subset(labels, 20, 0, "val")
    torch.manual_seed(2)
    assert torch.equal(first, stratified_subset(labels, 20, 0, "val"))
    assert not torch.equal(first, stratified_subset(labels, 20, 1, "val"))
    assert not torch.equal(first, stratified_subset(labels, 20, 0, "test"))


def test_ties_do_not_always_favour_the_same_class():
    labels = torch.arange(50) % 5
    first = {int(labels[stratified_order(labels, seed, "x")[0]]) for seed in range(40)}
    assert first == {0, 1, 2, 3, 4}


def test_hold_out_divides_the_rows():
    labels, rows = torch.arange(100) % 4, torch.arange(20, 100)
    held, rest = hold_out(labels, rows, 0.25, 0, "val")
    assert len(held) == 20 and labels[held].bincount().tolist() == [5, 5, 5, 5]
    assert torch.equal(torch.cat([held, rest]).sort().values, rows)
    for fraction in (0.001, 0.999):
        with pytest.raises(ConfigError, match=r"data\.val_fraction"):
            hold_out(labels, rows, fraction, 0, "val")
