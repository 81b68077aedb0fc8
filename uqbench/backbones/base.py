"""What methods may know of a backbone: its features, its residual blocks and the roles of its layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

Role = Literal["q", "k", "v", "qkv", "attention_out", "mlp_in", "mlp_out", "conv"]
FAMILIES: dict[str, tuple[Role, ...]] = {
    "attention": ("q", "k", "v", "qkv", "attention_out"),
    "mlp": ("mlp_in", "mlp_out"),
    "conv": ("conv",),
}


@dataclass(frozen=True)
class Layer:
    """A linear or convolutional layer inside a residual block.

    Attributes:
        name: its path within the backbone.
        role: what it computes.
        groups: how many projections are stacked along its outputs (3 for a fused qkv).
    """

    name: str
    role: Role
    groups: int = 1


class Backbone(nn.Module, ABC):
    """A feature extractor. Sub-classes build a library model in ``__init__`` and fill in the attributes below.

    Attributes:
        inputs: the batch keys that it reads.
        num_features: D, the width of its features.
        blocks: names of its residual blocks, in the order in which they run.
        layers: its linear and convolutional layers with their roles.
    """

    inputs: frozenset[str] = frozenset()
    num_features: int
    blocks: list[str]
    layers: list[Layer]

    @abstractmethod
    def forward_features(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Features ``[B, D]`` of a batch."""
