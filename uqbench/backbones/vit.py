"""Vision transformers: any of timm's, and a micro one whose pretrained weights come with uqbench."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from uqbench.backbones.base import Backbone, Layer
from uqbench.errors import CheckpointError, ConfigError, check
from uqbench.seeding import seeded

ASSETS = Path(__file__).parent / "assets"
MICRO: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 4,
    "embed_dim": 96,
    "depth": 8,
    "num_heads": 3,
    "global_pool": "avg",
}
EMBEDDED = {"pretrained": "vit_micro.safetensors", "weak": "vit_micro_weak.safetensors"}


class ViT(Backbone):
    """timm's `VisionTransformer`, unmodified, without its classification head.

    Args:
        name: the backbone's name in records and run directories.
        model: ``micro`` (8 blocks, width 96, 3 heads, patches of 4 x 4 of a 32 x 32 image, 0.9 M parameters), or any
            VisionTransformer of timm, such as ``vit_small_patch16_224.dino``.
        weights: ``pretrained`` (micro: embedded, see `scripts/pretrain_vit.py`; timm: from its hub), ``weak`` (micro
            only: the same pretraining stopped after a tenth of it), ``random``, or the path of a .safetensors file.
        image_size: height and width of its input in pixels; position embeddings are resampled to it.
        mean: per-channel mean that its input is normalised with.
        std: per-channel standard deviation that its input is normalised with.
        drop_path: stochastic-depth rate in training.
        seed: seed of the initial weights where they are random; the run's seed and the member fill it in.

    Raises:
        ConfigError: for a model that timm does not have or that is no VisionTransformer.
        CheckpointError: if the weights cannot be had, or belong to another architecture.
    """

    inputs = frozenset({"image"})

    def __init__(
        self,
        name: str = "vit",
        model: str = "micro",
        weights: str = "pretrained",
        image_size: int = 32,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
        drop_path: float = 0.0,
        seed: int = 0,
    ):
        super().__init__()
        check(image_size > 0, f"backbone.image_size must be positive, got {image_size}")
        check(0 <= drop_path < 1, f"backbone.drop_path must be in [0, 1), got {drop_path}")
        self.name = name
        with seeded(seed, "backbone"):
            build = _micro if model == "micro" else _timm
            self.model = build(model, weights, image_size, drop_path)
        self._describe()

    def _describe(self) -> None:
        """Finds the residual blocks and the layers of ``self.model``."""
        self.num_features = self.model.num_features
        self.blocks = [f"model.blocks.{i}" for i in range(len(self.model.blocks))]
        modules = dict(self.named_modules())
        roles = (("attn.qkv", "qkv", 3), ("attn.proj", "attention_out", 1), ("mlp.fc1", "mlp_in", 1),
                 ("mlp.fc1_g", "mlp_in", 1), ("mlp.fc1_x", "mlp_in", 1), ("mlp.fc2", "mlp_out", 1))  # fmt: skip
        self.layers = [
            Layer(f"{block}.{path}", role, groups)  # type: ignore[arg-type]
            for block in self.blocks
            for path, role, groups in roles
            if f"{block}.{path}" in modules
        ]

    def forward_features(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Pooled features ``[B, D]`` of normalised images ``[B, 3, H, W]``."""
        return self.model(batch["image"])


def _micro(model: str, weights: str, image_size: int, drop_path: float):
    from timm.models.vision_transformer import VisionTransformer

    check(
        image_size == MICRO["img_size"],
        f"backbone.image_size must be {MICRO['img_size']} for the micro ViT, got {image_size}",
    )
    network = VisionTransformer(**MICRO, num_classes=0, drop_path_rate=drop_path)
    if weights != "random":
        _load(network, ASSETS / EMBEDDED[weights] if weights in EMBEDDED else Path(weights))
    return network


def _timm(model: str, weights: str, image_size: int, drop_path: float):
    import timm
    from timm.models.vision_transformer import VisionTransformer

    check(weights != "weak", "backbone.weights=weak exists for the micro ViT only; use pretrained, random or a path")
    if model.split(".")[0] not in timm.list_models():
        raise ConfigError(f"backbone.model={model} is not a model of timm {timm.__version__}; see timm.list_models()")
    local: dict[str, Any] = {} if weights in ("pretrained", "random") else {"pretrained_cfg_overlay": {"file": weights}}
    if local and not Path(weights).is_file():
        raise CheckpointError(f"backbone.weights: no file {weights}; give pretrained, random or a .safetensors file")
    try:
        network = timm.create_model(
            model, pretrained=weights != "random", num_classes=0, img_size=image_size, drop_path_rate=drop_path, **local
        )
    except TypeError as error:
        raise ConfigError(f"backbone.model={model} is not a VisionTransformer: it takes no img_size") from error
    except Exception as error:  # timm, the hub client and safetensors raise many kinds
        raise CheckpointError(
            f"the weights of backbone.model={model} could not be had ({type(error).__name__}: {error}); with no "
            "network, put the .safetensors file somewhere and set backbone.weights=PATH, or backbone.weights=random"
        ) from error
    if not isinstance(network, VisionTransformer):
        raise ConfigError(f"backbone.model={model} is a {type(network).__name__}, not a VisionTransformer")
    return network


def _load(model, path: Path) -> None:
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"backbone.weights: no file {path}; give pretrained, random or a .safetensors") from error
    except Exception as error:  # safetensors' own error is not exported
        raise CheckpointError(f"backbone.weights: {path} is damaged or no safetensors file: {error}") from error
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise CheckpointError(f"backbone.weights: {path} belongs to another architecture: {first}") from error
