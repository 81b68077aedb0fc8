"""Injection: replacing layers of any backbone by member-specific ones, chosen by what they do, not by their names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatch

from torch import nn

from uqbench.backbones.base import FAMILIES, Backbone, Layer
from uqbench.errors import ConfigError


def select(backbone: Backbone, targets: Sequence[str], last_blocks: int | None = None) -> list[Layer]:
    """The layers of a backbone that ``targets`` name, in the order in which the backbone lists them.

    Args:
        backbone: says which layers it has and what each does.
        targets: families (``attention``, ``mlp``, ``conv``), single roles (``q``, ``mlp_in``, ...), or patterns of
            module names such as ``model.patch_embed.*``, which also reach linear and convolutional layers that are in
            no residual block.
        last_blocks: only layers in this many last residual blocks; None for all.

    Raises:
        ConfigError: if a target matches nothing; the message lists what the backbone has.
    """
    listed = {layer.name: layer for layer in backbone.layers}
    others = [
        Layer(name, "conv" if isinstance(module, nn.Conv2d) else "mlp_in")
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and name not in listed
    ]
    chosen: dict[str, Layer] = {}
    for target in targets:
        roles = FAMILIES.get(target, (target,))
        matches = [layer for layer in backbone.layers if layer.role in roles]
        matches = matches or [layer for layer in [*backbone.layers, *others] if fnmatch(layer.name, target)]
        if not matches:
            has = sorted({family for family, r in FAMILIES.items() if any(x.role in r for x in backbone.layers)})
            raise ConfigError(
                f"method.targets: nothing in this {type(backbone).__name__} matches {target!r}; it has the families "
                f"{', '.join(has)} and layers such as {backbone.layers[0].name}"
            )
        chosen.update({layer.name: layer for layer in matches})
    if last_blocks is not None:
        if not 1 <= last_blocks <= len(backbone.blocks):
            raise ConfigError(f"method.last_blocks must be in 1..{len(backbone.blocks)}, got {last_blocks}")
        blocks = tuple(f"{block}." for block in backbone.blocks[-last_blocks:])
        chosen = {name: layer for name, layer in chosen.items() if name.startswith(blocks)}
    order = {layer.name: i for i, layer in enumerate([*backbone.layers, *others])}
    return sorted(chosen.values(), key=lambda layer: order[layer.name])


def inject(backbone: Backbone, layers: Sequence[Layer], build: Callable[[nn.Module, Layer], nn.Module]) -> list[str]:
    """Freezes the backbone and replaces ``layers`` by what ``build`` makes of them.

    Args:
        backbone: changed in place.
        layers: what to replace, as `select` returns it.
        build: maps the old module and its description to the new module.

    Returns:
        The names of the replaced layers.
    """
    backbone.requires_grad_(False)
    for layer in layers:
        parent, _, child = layer.name.rpartition(".")
        setattr(backbone.get_submodule(parent), child, build(backbone.get_submodule(layer.name), layer))
    return [layer.name for layer in layers]
