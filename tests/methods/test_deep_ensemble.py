"""Single networks and deep ensembles."""

from __future__ import annotations

import pytest
import torch
from conftest import TinyViT

from uqbench.errors import CheckpointError, ConfigError
from uqbench.members.checkpoint import save_members
from uqbench.methods.deep_ensemble import DeepEnsemble
from uqbench.methods.single import Single
from uqbench.task import Classification

TASK = Classification(5)


def random_backbone(seed: int) -> TinyViT:
    return TinyViT(seed=seed)


def test_member_zero_is_the_single_network_of_the_same_seed(tiny_batch):
    single = Single().prepare(random_backbone, TASK, seed=3)
    ensemble = DeepEnsemble(num_members=3).prepare(random_backbone, TASK, seed=3)
    logits = ensemble(tiny_batch)
    assert logits.shape == (3, 6, 5)
    assert torch.equal(logits[0], single(tiny_batch)[0])
    assert Single().stages()[0].stream == DeepEnsemble(num_members=3).stages()[0].stream


def test_members_start_from_their_own_weights_and_walk_their_own_order():
    ensemble = DeepEnsemble(num_members=3).prepare(random_backbone, TASK, seed=3)
    first, second = ensemble.members[0], ensemble.members[1]
    assert not torch.equal(first.head.weight, second.head.weight)
    assert not torch.equal(
        first.backbone.model.blocks[0].attn.qkv.weight, second.backbone.model.blocks[0].attn.qkv.weight
    )
    assert len({stage.stream for stage in DeepEnsemble(num_members=3).stages()}) == 3


def test_a_stage_trains_its_member_only():
    method = DeepEnsemble(num_members=3)
    ensemble = method.prepare(random_backbone, TASK, seed=3)
    for m, stage in enumerate(method.stages()):
        assert stage.part(ensemble) is ensemble.members[m]


def test_head_only_freezes_the_backbone():
    network = Single(train="head").prepare(random_backbone, TASK, seed=3)
    assert {name for name, p in network.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}


def test_members_from_finished_runs(tmp_path, tiny_batch):
    runs, logits = [], []
    for seed in (0, 1):
        network = Single().prepare(random_backbone, TASK, seed)
        (tmp_path / str(seed) / "stages").mkdir(parents=True)
        save_members(network, tmp_path / str(seed) / "stages" / "fit.safetensors", {})
        runs.append(str(tmp_path / str(seed)))
        logits.append(network(tiny_batch))
    from uqbench.members.checkpoint import load_members

    method = DeepEnsemble(num_members=2, members_from=runs)
    ensemble = method.prepare(random_backbone, TASK, seed=9)
    for stage in method.stages():
        assert stage.done is not None
        load_members(stage.part(ensemble), stage.done)
    torch.testing.assert_close(ensemble(tiny_batch), torch.cat(logits))


def test_members_from_names_what_is_missing(tmp_path):
    with pytest.raises(ConfigError, match=r"names 1 runs, but method.num_members is 2"):
        DeepEnsemble(num_members=2, members_from=["a"])
    with pytest.raises(CheckpointError, match=r"no finished member in .*nowhere"):
        DeepEnsemble(num_members=1, members_from=[str(tmp_path / "nowhere")]).stages()
