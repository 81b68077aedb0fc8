"""Singular Value Ensemble (Turkoglu et al. 2026, arXiv 2601.22068): members share singular vectors, own the values."""

from __future__ import annotations

import logging
from typing import Any, Literal

from torch import nn

from uqbench.backbones.base import Layer
from uqbench.errors import ConfigError, check
from uqbench.members.head import MemberHead
from uqbench.members.inject import inject, select
from uqbench.members.network import Network
from uqbench.members.singular import Decay, Form, SingularConv2d, SingularLayer, SingularLinear
from uqbench.methods.base import BuildBackbone, Method
from uqbench.seeding import named_seed
from uqbench.task import Classification

log = logging.getLogger(__name__)


class SVE(Method):
    """M members inside one frozen backbone, each with its own singular values, biases and head.

    Args:
        name: the method's name in records and run directories.
        num_members: M; 1 is SVF, the paper's "single with SVF".
        noise: standard deviation of the initial noise, multiplicative on singular values, additive on biases.
        targets: which layers, see `members.inject.select`.
        last_blocks: adapt only this many last residual blocks; all before them are computed once for all members.
        qkv: ``split`` decomposes q, k and v of a fused projection one by one (the paper's count, 15 d per block),
            ``fused`` decomposes the stacked matrix (the official code, 13 d per block).
        top_k: adapt only the largest k singular values per matrix.
        parametrisation, decay, form: see `SingularLayer`.
        cache_limit_gb: dense member weights are kept in evaluation only up to this size in GB, all layers together.
        **settings: see `Method`.
    """

    def __init__(
        self,
        name: str = "sve",
        num_members: int = 4,
        noise: float = 0.01,
        targets: list[str] | tuple[str, ...] = ("attention", "mlp"),
        last_blocks: int | None = None,
        qkv: Literal["split", "fused"] = "split",
        top_k: int | None = None,
        parametrisation: Literal["clamp", "log"] = "clamp",
        decay: Decay = "zero",
        form: Form = "auto",
        cache_limit_gb: float = 4.0,
        **settings: Any,
    ):
        super().__init__(name, num_members, **settings)
        check(noise >= 0, f"method.noise must not be negative, got {noise}")
        check(len(targets) > 0, "method.targets is empty: name at least one of attention, mlp, conv")
        check(top_k is None or top_k >= 1, f"method.top_k must be at least 1 or null, got {top_k}")
        check(
            parametrisation == "clamp" or decay != "zero",
            "method.decay=zero cannot be had with method.parametrisation=log (a = 0 is the pretrained value): "
            "use decay=pretrained or decay=none",
        )
        self.targets, self.last_blocks, self.qkv, self.cache_limit_gb = targets, last_blocks, qkv, cache_limit_gb
        self.options: dict[str, Any] = {
            "noise": noise, "top_k": top_k, "parametrisation": parametrisation, "decay": decay, "form": form,
        }  # fmt: skip

    def prepare(self, build: BuildBackbone, task: Classification, seed: int) -> Network:
        self.check_task(task)
        backbone = build(named_seed(seed, "member", 0))

        def replace(module: nn.Module, layer: Layer) -> SingularLayer:
            if isinstance(module, nn.Linear):
                groups = layer.groups if self.qkv == "split" else 1
                return SingularLinear(module, self.num_members, layer.name, seed, groups, **self.options)
            if isinstance(module, nn.Conv2d):
                return SingularConv2d(module, self.num_members, layer.name, seed, **self.options)
            raise ConfigError(f"method.targets: {layer.name} is a {type(module).__name__}; not Linear or Conv2d")

        adapted = inject(backbone, select(backbone, self.targets, self.last_blocks), replace)
        layers = [module for module in backbone.modules() if isinstance(module, SingularLayer)]
        dense = sum(4 * self.num_members * layer.base_layer.weight.numel() for layer in layers)
        if dense > self.cache_limit_gb * 1e9:
            log.info("dense member weights would take %.1f GB: not kept in evaluation", dense / 1e9)
            for layer in layers:
                layer.may_cache = False
        head = MemberHead(self.num_members, backbone.num_features, task.num_outputs, self.head_std, seed)
        return Network(backbone, head, adapted)
