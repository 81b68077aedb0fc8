"""Member checkpoints: what they hold, what they refuse."""

from __future__ import annotations

import pytest
import torch
from conftest import TinyViT
from torch import nn

from uqbench.errors import CheckpointError
from uqbench.members.checkpoint import load_members, save_members, trained_state
from uqbench.methods.single import Single
from uqbench.methods.sve import SVE
from uqbench.task import Classification

TASK = Classification(5)


def network(members: int = 3, seed: int = 1, backbone: int = 0, **options):
    return SVE(num_members=members, **options).prepare(lambda _: TinyViT(seed=backbone), TASK, seed)


def test_round_trip_onto_a_freshly_built_backbone(tmp_path, tiny_batch):
    trained = network(seed=1)
    with torch.no_grad():
        for p in trained.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    save_members(trained, tmp_path / "m.safetensors", {"epoch": 3})
    fresh = network(seed=2)
    assert load_members(fresh, tmp_path / "m.safetensors") == {"epoch": 3}
    assert torch.equal(fresh(tiny_batch), trained(tiny_batch))


def test_holds_members_and_heads_only(tmp_path):
    net = network()
    save_members(net, tmp_path / "m.safetensors", {})
    added = sum(p.numel() for p in net.parameters() if p.requires_grad)
    header = 8 + int.from_bytes((tmp_path / "m.safetensors").read_bytes()[:8], "little")
    assert (tmp_path / "m.safetensors").stat().st_size == header + 4 * added
    assert not any("base_layer" in name for name in trained_state(net))


def test_refuses_another_backbone_by_its_weights(tmp_path):
    save_members(network(), tmp_path / "m.safetensors", {})
    with pytest.raises(CheckpointError, match="trained on other frozen backbone weights"):
        load_members(network(backbone=7), tmp_path / "m.safetensors")


def test_refuses_another_architecture(tmp_path):
    save_members(network(), tmp_path / "m.safetensors", {})
    with pytest.raises(CheckpointError, match=r"another architecture: .* is \(3, .*\) there and \(4, "):
        load_members(network(members=4), tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="another architecture"):
        load_members(network(qkv="fused"), tmp_path / "m.safetensors")


def test_damaged_and_missing_files(tmp_path):
    path = tmp_path / "m.safetensors"
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_members(network(), path)
    save_members(network(), path, {})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        load_members(network(), path)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="damaged"):
        load_members(network(), path)


def test_everything_trained_is_everything_saved(tmp_path, tiny_batch):
    one = Single().prepare(TinyViT, TASK, seed=1)
    save_members(one, tmp_path / "m.safetensors", {})
    other = Single().prepare(TinyViT, TASK, seed=2)
    load_members(other, tmp_path / "m.safetensors")
    assert torch.equal(one(tiny_batch), other(tiny_batch))


def test_running_statistics_of_trained_norms_are_saved():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert {"1.running_mean", "1.running_var", "1.num_batches_tracked"} <= trained_state(net).keys()
    assert not trained_state(net.requires_grad_(False))
