"""The ViT wrapper: features, roles, weights, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer

from uqbench.backbones.vit import ASSETS, MICRO, ViT
from uqbench.errors import CheckpointError, ConfigError


def test_features_are_timms():
    vit = ViT().eval()
    reference = VisionTransformer(**MICRO, num_classes=0)
    reference.load_state_dict(load_file(ASSETS / "vit_micro.safetensors"))
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(vit.forward_features({"image": image}), reference.eval()(image))
    assert vit.num_features == 96 and len(vit.blocks) == 8
    assert [layer.role for layer in vit.layers[:4]] == ["qkv", "attention_out", "mlp_in", "mlp_out"]
    assert len(vit.layers) == 32 and vit.layers[0].groups == 3


def test_the_three_kinds_of_embedded_weights_differ():
    weights = {kind: ViT(weights=kind).model.blocks[0].mlp.fc1.weight for kind in ("pretrained", "weak", "random")}
    assert not torch.equal(weights["pretrained"], weights["weak"])
    assert not torch.equal(weights["pretrained"], weights["random"])
    assert torch.equal(ViT(weights="pretrained", seed=1).model.blocks[0].mlp.fc1.weight, weights["pretrained"])
    assert not torch.equal(ViT(weights="random", seed=1).model.blocks[0].mlp.fc1.weight, weights["random"])
    assert torch.equal(ViT(weights="random", seed=0).model.blocks[0].mlp.fc1.weight, weights["random"])


def test_embedded_weights_are_small():
    for path in ASSETS.glob("*.safetensors"):
        assert path.stat().st_size < 8e6


@pytest.mark.parametrize("model, size, tokens", [("vit_small_patch16_224.dino", 224, 197),
                                                 ("vit_small_patch14_dinov2.lvd142m", 224, 257)])  # fmt: skip
def test_the_papers_backbones_build_at_224_pixels(model, size, tokens):
    vit = ViT(model=model, weights="random", image_size=size)
    assert vit.num_features == 384 and len(vit.blocks) == 12
    assert vit.model.pos_embed.shape[1] == tokens
    with torch.no_grad():
        assert vit.eval().forward_features({"image": torch.randn(1, 3, size, size)}).shape == (1, 384)


def test_weights_from_a_file(tmp_path):
    path = tmp_path / "vit.safetensors"
    save_file({k: v.clone() for k, v in ViT(weights="random", seed=5).model.state_dict().items()}, path)
    loaded = ViT(weights=str(path)).model
    assert torch.equal(loaded.pos_embed, ViT(weights="random", seed=5).model.pos_embed)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged or no safetensors"):
        ViT(weights=str(path))
    with pytest.raises(CheckpointError, match="no file"):
        ViT(weights=str(tmp_path / "nowhere.safetensors"))
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="another architecture"):
        ViT(weights=str(path))


def test_refusals():
    with pytest.raises(ConfigError, match="not a model of timm"):
        ViT(model="vit_gigantic")
    with pytest.raises(ConfigError, match="not a VisionTransformer"):
        ViT(model="resnet18", weights="random", image_size=32)
    with pytest.raises(ConfigError, match="image_size must be 32 for the micro ViT"):
        ViT(image_size=64)
    with pytest.raises(ConfigError, match="weak exists for the micro ViT only"):
        ViT(model="vit_small_patch16_224.dino", weights="weak", image_size=224)


def test_weights_that_cannot_be_downloaded_are_one_line(monkeypatch):
    import timm

    def offline(*args, **kwargs):
        raise OSError("no route to the hub")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(CheckpointError, match=r"could not be had .*backbone\.weights=PATH"):
        ViT(model="vit_small_patch16_224.dino", image_size=224)
