"""Checkpoints that hold what was trained, members and heads, and not the frozen backbone.

A file is safetensors: the trained parameters, and the running statistics of trained normalisation layers. Its header
says which frozen weights it belongs to, by hash, so that it cannot be loaded onto another backbone.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from uqbench.errors import CheckpointError
from uqbench.files import write_safely
from uqbench.members.svd import tensor_hash


def trained_state(network: nn.Module) -> dict[str, Tensor]:
    """The parameters that are trained and the persistent buffers of the modules that own such parameters."""
    state = {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}
    persistent = network.state_dict()
    for prefix, module in network.named_modules():
        if any(p.requires_grad for p in module.parameters(recurse=False)):
            names = (f"{prefix}.{name}" if prefix else name for name, _ in module.named_buffers(recurse=False))
            state.update({name: persistent[name] for name in names if name in persistent})
    return state


def frozen_hash(network: nn.Module) -> str:
    """A hash of all frozen parameters: their names, shapes and values; of the empty set if everything is trained."""
    digest = hashlib.sha256()
    for name, parameter in sorted(network.named_parameters()):
        if not parameter.requires_grad:
            digest.update(name.encode() + tensor_hash(parameter).encode())
    return digest.hexdigest()[:16]


def save_members(network: nn.Module, path: Path, about: dict[str, Any]) -> None:
    """Writes the trained state of ``network``, safely (see `write_safely`).

    Args:
        network: what to save.
        path: a .safetensors file.
        about: further facts for the header, such as the best validation score; must be JSON.
    """
    from safetensors.torch import save_file

    state = {name: tensor.cpu().contiguous() for name, tensor in trained_state(network).items()}
    header = {"frozen": frozen_hash(network), "about": json.dumps(about)}
    write_safely(path, lambda temporary: save_file(state, temporary, metadata=header))


def load_members(network: nn.Module, path: Path) -> dict[str, Any]:
    """Loads what `save_members` wrote onto a freshly built network, in place.

    Returns:
        The header's further facts.

    Raises:
        CheckpointError: if the file is missing or damaged, if the frozen weights are not those it was trained on, or
            if its tensors do not fit the network.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError as error:
        raise CheckpointError(f"no checkpoint {path}") from error
    except Exception as error:  # safetensors' own error is not exported
        raise CheckpointError(f"{path} is damaged ({error}); remove it to train that stage again") from error
    if "frozen" not in header:
        raise CheckpointError(f"{path} is no uqbench checkpoint: its header names no frozen weights")
    own = trained_state(network)
    for name in sorted(own.keys() | state.keys()):
        mine, theirs = (tuple(s[name].shape) if name in s else None for s in (own, state))
        if mine != theirs:
            raise CheckpointError(
                f"{path} belongs to another architecture: {name} is {theirs or 'missing'} there and "
                f"{mine or 'missing'} here"
            )
    if header["frozen"] != frozen_hash(network):
        raise CheckpointError(f"{path} was trained on other frozen backbone weights; use the backbone of its run")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])
    return json.loads(header["about"])
