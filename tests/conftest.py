"""Shared fixtures: a tiny vision transformer and random batches. Nothing here needs a file outside the project."""

from __future__ import annotations

import os

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from uqbench.backbones.base import Backbone
from uqbench.backbones.vit import ViT
from uqbench.seeding import seeded

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


class TinyViT(ViT):
    """Four blocks of width 24 on 16 x 16 images: fast enough to be run hundreds of times."""

    def __init__(self, seed: int = 0, depth: int = 4):
        Backbone.__init__(self)
        self.name = "tiny"
        with seeded(seed, "tiny"):
            self.model = VisionTransformer(
                img_size=16, patch_size=4, embed_dim=24, depth=depth, num_heads=2, num_classes=0, global_pool="avg"
            )
            for parameter in self.model.parameters():  # biases too, or a test could not see them go missing
                if parameter.ndim == 1:
                    parameter.data.add_(0.1 * torch.randn_like(parameter))
        self._describe()


@pytest.fixture
def tiny_batch() -> dict[str, torch.Tensor]:
    stream = torch.Generator().manual_seed(0)
    return {
        "image": torch.randn(6, 3, 16, 16, generator=stream),
        "target": torch.randint(5, (6,), generator=stream),
        "index": torch.arange(6),
    }


@pytest.fixture(autouse=True)
def _private_cache(tmp_path_factory, monkeypatch):
    """Decompositions go to a cache of the test session, never to the user's."""
    monkeypatch.setenv("UQBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
