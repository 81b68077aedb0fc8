"""A linear classification head per member."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from uqbench.members.axis import fan_out, unfold
from uqbench.seeding import generator


class MemberHead(nn.Module):
    """M independent linear heads, weight ``[M, C, D]``, bias ``[M, C]``.

    Weights start from N(0, std^2) and biases from 0, as the official SVE code initialises its heads (sve.py:40-51).
    Member m draws from its own stream, so it is the same for every M.

    Args:
        num_members: M.
        num_features: D.
        num_outputs: C.
        std: standard deviation of the initial weights.
        seed: the run's seed.
        first_member: the index of the first head's stream; member 3 of a deep ensemble is built alone, as member 3.
    """

    def __init__(
        self, num_members: int, num_features: int, num_outputs: int, std: float, seed: int, first_member: int = 0
    ):
        super().__init__()
        self.num_members = num_members
        streams = [generator(seed, "member", first_member + m, "head") for m in range(num_members)]
        draws = [torch.randn(num_outputs, num_features, generator=stream) for stream in streams]
        self.weight = nn.Parameter(std * torch.stack(draws))
        self.bias = nn.Parameter(torch.zeros(num_members, num_outputs))

    def forward(self, features: Tensor) -> Tensor:
        """Maps features, ``[M*B, D]`` member-major or ``[B, D]`` shared by all members, to logits ``[M, B, C]``.

        Whether the features are shared cannot be read off their shape; the caller fans out (`Network`).
        """
        features = unfold(features, self.num_members)
        return torch.baddbmm(self.bias[:, None].to(features.dtype), features, self.weight.mT.to(features.dtype))

    def shared(self, features: Tensor) -> Tensor:
        """Maps features ``[B, D]`` that all members share to logits ``[M, B, C]``."""
        return self(fan_out(features, self.num_members))
