"""Networks with an explicit member axis: a backbone with member-specific layers and heads, or M whole networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from uqbench.backbones.base import Backbone
from uqbench.members.fanout import FanOut, entries
from uqbench.members.head import MemberHead

Batch = Mapping[str, Tensor]


class Network(nn.Module):
    """One backbone, M members inside it, and a head per member.

    Args:
        backbone: the network that the members share; its member-specific layers are already in place.
        head: one linear head per member.
        adapted: names, within the backbone, of the member-specific layers; empty if only the heads differ.
    """

    def __init__(self, backbone: Backbone, head: MemberHead, adapted: Sequence[str] = ()):
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.num_members = head.num_members
        self.adapted = list(adapted)
        self.fan_out = FanOut(backbone, entries(backbone.blocks, self.adapted), self.num_members)

    def forward(self, batch: Batch) -> Tensor:
        """Logits ``[M, B, C]`` of a batch of B examples that all members share."""
        rows = len(batch["index"])
        with self.fan_out.of(rows):
            features = self.backbone.forward_features(batch)
        return self.head(features) if self.adapted else self.head.shared(features)

    def forward_folded(self, batch: Batch) -> Tensor:
        """Logits ``[M, B, C]`` of a batch of M*B examples in which every member has its own B, member-major."""
        return self.head(self.backbone.forward_features(batch))


class NetworkList(nn.Module):
    """M separate networks of one member each: the explicit deep ensemble."""

    def __init__(self, members: Sequence[Network]):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.num_members = len(members)

    def forward(self, batch: Batch) -> Tensor:
        """Logits ``[M, B, C]``: the members run one after the other, which no stacked form beats for whole networks."""
        return torch.cat([member(batch) for member in self.members])


AnyNetwork = Network | NetworkList
