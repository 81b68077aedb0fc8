"""SVE as a whole: against separately built networks, the paper's parameter counts, and the cost of late fan-out."""

from __future__ import annotations

import pytest
import torch
from conftest import TinyViT
from torch import nn

from uqbench.backbones.vit import ViT
from uqbench.cost import count_flops, count_parameters
from uqbench.errors import ConfigError
from uqbench.members.axis import fan_out
from uqbench.members.singular import SingularLayer
from uqbench.methods.single import Single
from uqbench.methods.sve import SVE
from uqbench.task import Classification

TASK = Classification(5)


def build(seed: int) -> TinyViT:
    return TinyViT(seed=0)  # a pretrained backbone is the same for every seed


def member(network, m: int) -> nn.Module:
    """A plain network with member m's weights, built by hand from timm's model."""
    backbone = TinyViT(seed=0)
    for name, layer in network.backbone.named_modules():
        if isinstance(layer, SingularLayer):
            plain = backbone.get_submodule(name)
            plain.weight.data.copy_(layer.member_weight()[m].flatten(0, 1))
            plain.bias.data.copy_(layer.member_bias()[m])
    head = nn.Linear(24, 5)
    head.weight.data.copy_(network.head.weight[m])
    head.bias.data.copy_(network.head.bias[m])
    return nn.Sequential(backbone.model, head)


@pytest.mark.parametrize("qkv", ["split", "fused"])
@pytest.mark.parametrize("last_blocks", [None, 1])
@pytest.mark.parametrize("form", ["auto", "factored", "materialised"])
def test_members_equal_networks_built_by_hand(tiny_batch, qkv, last_blocks, form):
    network = SVE(num_members=3, noise=0.2, qkv=qkv, last_blocks=last_blocks, form=form).prepare(build, TASK, seed=1)
    network.eval()
    expected = torch.stack([member(network, m).eval()(tiny_batch["image"]) for m in range(3)])
    torch.testing.assert_close(network(tiny_batch), expected, atol=1e-5, rtol=1e-5)


def test_one_member_without_noise_is_the_pretrained_network(tiny_batch):
    network = SVE(num_members=1, noise=0.0, form="materialised").prepare(build, TASK, seed=1).eval()
    with torch.no_grad():
        features = network.backbone.forward_features(tiny_batch)
        torch.testing.assert_close(features, build(0).eval().forward_features(tiny_batch), atol=1e-6, rtol=1e-6)


def test_member_gradients_equal_those_of_separate_networks(tiny_batch):
    """With the summed loss every member gets the gradient that it would have alone; with the mean, 1/M of it."""
    several = SVE(num_members=3, noise=0.1, loss_reduction="sum")
    network = several.prepare(build, TASK, seed=1)
    several.loss(network, TASK, tiny_batch).backward()
    for m in range(3):
        alone = SVE(num_members=1, noise=0.1).prepare(build, TASK, seed=1)
        with torch.no_grad():
            for mine, theirs in zip(alone.parameters(), network.parameters(), strict=True):
                if mine.requires_grad:
                    mine.copy_(theirs[m : m + 1])
        several.loss(alone, TASK, tiny_batch).backward()
        for (name, mine), theirs in zip(alone.named_parameters(), network.parameters(), strict=True):
            if mine.requires_grad:
                torch.testing.assert_close(mine.grad[0], theirs.grad[m], atol=1e-5, rtol=1e-4, msg=name)
    mean = SVE(num_members=3, noise=0.1)
    again = mean.prepare(build, TASK, seed=1)
    mean.loss(again, TASK, tiny_batch).backward()
    torch.testing.assert_close(3 * again.head.weight.grad, network.head.weight.grad, atol=1e-5, rtol=1e-4)


def test_folded_batches_give_every_member_its_own_examples(tiny_batch):
    network = SVE(num_members=3, noise=0.2).prepare(build, TASK, seed=1).eval()
    own = {key: fan_out(value, 3) for key, value in tiny_batch.items()}
    with torch.no_grad():
        torch.testing.assert_close(network.forward_folded(own), network(tiny_batch), atol=1e-5, rtol=1e-5)
        other = torch.randn_like(own["image"])
        folded = network.forward_folded({**own, "image": other})
        for m in range(3):
            alone = network({**tiny_batch, "image": other[6 * m : 6 * (m + 1)]})[m]
            torch.testing.assert_close(folded[m], alone, atol=1e-5, rtol=1e-5)


def test_independent_batches_train_each_member_on_its_own_rows(tiny_batch):
    method = SVE(num_members=2, member_batches="independent")
    network = method.prepare(build, TASK, seed=1)
    own = {key: fan_out(value, 2) for key, value in tiny_batch.items()}
    own["target"] = torch.cat([tiny_batch["target"], (tiny_batch["target"] + 1) % 5])
    logits = network.forward_folded(own)
    expected = sum(nn.functional.cross_entropy(logits[m], own["target"].view(2, 6)[m]) for m in range(2)) / 2
    torch.testing.assert_close(method.loss(network, TASK, own), expected)


def test_nothing_frozen_is_trained():
    network = SVE(num_members=2).prepare(build, TASK, seed=1)
    trained = {name.rsplit(".", 1)[1] for name, p in network.named_parameters() if p.requires_grad}
    assert trained == {"singular", "bias", "weight"}
    assert all(p.requires_grad for p in network.head.parameters())
    assert not any(p.requires_grad for name, p in network.named_parameters() if "base_layer" in name or "norm" in name)


@pytest.mark.parametrize("qkv, per_block", [("fused", 13), ("split", 15)])
def test_parameter_overhead_is_the_papers(qkv, per_block):
    """13 d per block for the official code's fused qkv, 15 d for the paper's split one (note A1.2); ViT-S/16, M = 4."""
    classes, members = 102, 4
    method = SVE(num_members=members, qkv=qkv)
    network = method.prepare(lambda seed: ViT(model="vit_small_patch16_224.dino", weights="random", image_size=224),
                             Classification(classes), seed=0)  # fmt: skip
    head = 384 * classes + classes
    counts = count_parameters(network)
    assert counts["trainable"] == members * (per_block * 384 * 12 + head)
    assert counts["added"] == members * per_block * 384 * 12 + (members - 1) * head
    if qkv == "fused":
        assert members * per_block * 384 * 12 == 239_616  # the note's table


def test_last_quarter_adapted_costs_at_most_three_single_forwards():
    """M = 8 on the last two of eight blocks: (6 + 8 * 2) / 8 = 2.75 single forwards (patch embedding apart)."""

    def micro(seed: int) -> ViT:
        return ViT(weights="random")

    batch = {"image": torch.randn(4, 3, 32, 32), "index": torch.arange(4)}
    single = count_flops(Single().prepare(micro, TASK, seed=0), batch)
    ensemble = count_flops(SVE(num_members=8, last_blocks=2).prepare(micro, TASK, seed=0), batch)
    assert 2.6 < ensemble / single < 2.8
    everywhere = count_flops(SVE(num_members=8).prepare(micro, TASK, seed=0), batch)
    assert 7.9 < everywhere / single < 8.05


def test_targets_choose_layers():
    def adapted(**options) -> list[str]:
        return SVE(num_members=2, **options).prepare(build, TASK, seed=0).adapted

    assert len(adapted()) == 16 and len(adapted(targets=["attention"])) == 8 and len(adapted(targets=["mlp_in"])) == 4
    assert adapted(targets=["attention_out"], last_blocks=1) == ["model.blocks.3.attn.proj"]
    assert adapted(targets=["model.patch_embed.*"]) == ["model.patch_embed.proj"]
    with pytest.raises(ConfigError, match=r"nothing in this TinyViT matches 'conv'.*attention, mlp"):
        adapted(targets=["conv"])
    with pytest.raises(ConfigError, match=r"last_blocks must be in 1\.\.4"):
        adapted(last_blocks=9)


def test_patch_embedding_can_be_adapted_and_fans_out_there(tiny_batch):
    network = SVE(num_members=3, noise=0.2, targets=["model.patch_embed.*"]).prepare(build, TASK, seed=1).eval()
    hand = [TinyViT(seed=0).eval() for _ in range(3)]
    layer = network.backbone.get_submodule("model.patch_embed.proj")
    with torch.no_grad():
        logits = []
        for m, backbone in enumerate(hand):
            plain = backbone.get_submodule("model.patch_embed.proj")
            plain.weight.copy_(layer.member_weight()[m].view_as(plain.weight))
            plain.bias.copy_(layer.member_bias()[m])
            features = backbone.forward_features(tiny_batch)
            logits.append(features @ network.head.weight[m].T + network.head.bias[m])
        torch.testing.assert_close(network(tiny_batch), torch.stack(logits), atol=1e-5, rtol=1e-5)


def test_log_parametrisation_refuses_decay_to_zero():
    with pytest.raises(ConfigError, match=r"decay=zero cannot be had with method\.parametrisation=log"):
        SVE(parametrisation="log")
    SVE(parametrisation="log", decay="none")


def test_no_decay_puts_members_into_a_group_without_decay():
    method = SVE(num_members=2, decay="none")
    network = method.prepare(build, TASK, seed=0)
    exempt, heads = method.parameter_groups(network)
    assert {id(p) for p in heads["params"]} == {id(p) for p in network.head.parameters()}
    assert exempt["weight_decay"] == 0.0 and len(exempt["params"]) == 32


def test_cache_limit_turns_the_cache_off():
    layers = [m for m in SVE(cache_limit_gb=0.0).prepare(build, TASK, seed=0).modules() if isinstance(m, SingularLayer)]
    assert layers and not any(layer.may_cache for layer in layers)
