"""Learning-rate schedules and parameter groups."""

from __future__ import annotations

import math

import pytest
import torch

from uqbench.errors import ConfigError
from uqbench.optim.recipe import Recipe


def test_official_sve_schedule():
    """(epoch + 1) / 5 for five epochs, then half a cosine over the other five (note A1.5)."""
    recipe = Recipe(schedule="cosine", interval="epoch", warmup=5)
    expected = [0.2, 0.4, 0.6, 0.8, 1.0] + [0.5 * (1 + math.cos(math.pi * k / 5)) for k in range(5)]
    assert [recipe.factor(t, 10) for t in range(10)] == pytest.approx(expected)


def test_multistep_and_constant():
    recipe = Recipe(schedule="multistep", milestones=[25, 50], gamma=0.1)
    assert [recipe.factor(t, 75) for t in (0, 24, 25, 50)] == pytest.approx([1, 1, 0.1, 0.01])
    assert Recipe(schedule="constant").factor(9, 10) == 1


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_groups_keep_their_own_weight_decay(kind):
    decayed, exempt = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    recipe = Recipe(optimizer=kind, lr=0.1, weight_decay=0.5, schedule="constant")
    built = recipe.build([{"params": [decayed]}, {"params": [exempt], "weight_decay": 0.0}], epochs=1, steps=10)
    for parameter in (decayed, exempt):
        parameter.grad = torch.zeros(2)
    built["optimizer"].step()
    assert (decayed < 1).all() and (exempt == 1).all()
    assert built["lr_scheduler"]["interval"] == "epoch"


def test_heads_learn_at_their_own_rate():
    groups = [{"name": name, "params": [torch.nn.Parameter(torch.ones(1))]} for name in ("backbone", "head")]
    optimiser = Recipe(lr=0.1, head_lr_factor=20, schedule="constant").build(groups, 1, 1)["optimizer"]
    assert [group["lr"] for group in optimiser.param_groups] == pytest.approx([0.1, 2.0])


@pytest.mark.parametrize(
    "settings", [{"lr": 0.0}, {"weight_decay": -1.0}, {"warmup": -1}, {"clip_norm": 0.0}, {"schedule": "multistep"}]
)
def test_out_of_range(settings):
    with pytest.raises(ConfigError, match=r"^optim\."):
        Recipe(**settings)
