"""The benchmark's baseline computes what SVE computes, and the contrastive loss is SimCLR's."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import nn

from uqbench.members.axis import fold, unfold
from uqbench.members.singular import SingularLinear


def load(name: str):
    path = Path(__file__).parents[1] / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_official_formulation_is_the_same_computation():
    base, members = nn.Linear(12, 36), 3
    ours = SingularLinear(base, members, "layer", seed=0, noise=0.2)
    theirs = load("benchmark").EinsumLayer(base, members)
    with torch.no_grad():
        theirs.S.copy_(ours.singular[:, 0])
        theirs.b.copy_(ours.bias)
        x = torch.randn(members, 4, 5, 12)
        sample_major = theirs(x.transpose(0, 1).flatten(0, 1)).unflatten(0, (-1, members)).transpose(0, 1)
        torch.testing.assert_close(sample_major, unfold(ours(fold(x)), members), atol=1e-5, rtol=1e-5)


def test_nt_xent_against_a_loop():
    """SimCLR's equation 1, term by term."""
    first, second = torch.randn(4, 6), torch.randn(4, 6)
    views = nn.functional.normalize(torch.cat([first, second]), dim=1)
    total = 0.0
    for i in range(8):
        similar = [torch.exp(views[i] @ views[k] / 0.2) for k in range(8) if k != i]
        total -= torch.log(torch.exp(views[i] @ views[(i + 4) % 8] / 0.2) / sum(similar))
    torch.testing.assert_close(load("pretrain_vit").nt_xent(first, second, 0.2), total / 8)
