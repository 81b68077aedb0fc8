"""Late fan-out: where, what, and that masks follow."""

from __future__ import annotations

import torch
from torch import nn

from uqbench.members.axis import fan_out, fold, unfold
from uqbench.members.fanout import FanOut, entries


def test_axis_is_member_major_and_inverts():
    x = torch.arange(12).view(3, 4)
    assert torch.equal(unfold(fold(x), 3), x)
    assert fan_out(torch.tensor([1, 2]), 3).tolist() == [1, 2, 1, 2, 1, 2]


def test_entries_are_the_first_adapted_block_and_all_after_it():
    blocks = ["b.0", "b.1", "b.2", "b.10"]
    assert entries(blocks, ["b.1.fc"]) == ["b.1", "b.2", "b.10"]
    assert entries(blocks, ["b.10.fc"]) == ["b.10"]
    assert entries(blocks, ["stem", "b.2.fc"]) == ["b.2", "b.10", "stem"]
    assert entries(blocks, []) == []


class Block(nn.Module):
    def forward(self, x, mask=None, scale=None):
        assert mask is None or len(mask) == len(x)
        return x if mask is None else x * mask


def test_states_and_masks_are_repeated_once():
    net = nn.ModuleList([Block() for _ in range(4)])
    fan = FanOut(net, ["1", "2", "3"], num_members=3)
    x, mask, scale = torch.randn(2, 5), torch.randn(2, 1), torch.randn(7)
    with fan.of(2):
        h = net[0](x, mask=mask)
        assert h.shape == (2, 5)
        for block in net[1:]:
            h = block(h, mask=mask, scale=scale)
    expected = fan_out(x * mask**4, 3)
    torch.testing.assert_close(h, expected)
    assert net[1](x).shape == (2, 5)  # outside the context nothing is repeated
