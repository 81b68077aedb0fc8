"""Named random streams."""

from __future__ import annotations

import subprocess
import sys

import torch

from uqbench.seeding import generator, named_seed, seeded


def test_a_stream_is_a_function_of_seed_and_name():
    draws = [torch.rand(3, generator=generator(1, "augment", 2, 3)) for _ in range(2)]
    assert torch.equal(*draws)
    names = [(1, "a", 1), (2, "a", 1), (1, "b", 1), (1, "a", 2), (1, "a/1"), (1, "a", 1, 1)]
    assert len({named_seed(*name) for name in names}) == 5  # ("a", 1) and ("a/1",) are the same path
    assert all(0 <= named_seed(*name) < 2**63 for name in names)


def test_the_same_in_another_process():
    code = "from uqbench.seeding import named_seed; print(named_seed(7, 'order', 3))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(out) == named_seed(7, "order", 3)


def test_seeded_leaves_no_trace():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with seeded(0, "init"):
        inside = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    with seeded(0, "init"):
        assert torch.equal(torch.rand(2), inside)
