"""Late fan-out: what the members share is computed once.

Up to the first residual block that holds a member-specific layer all members compute the same, so the batch enters the
network with B rows. Each block from there on has a pre-hook that repeats every tensor argument that still has B rows to
M*B rows: at the first block that is the hidden state, at later ones the attention mask and other per-example arguments
that the model hands to every block. With the last k of L blocks adapted, a forward of M members costs
((L - k) + k M) / L single forwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from uqbench.members.axis import fan_out


class FanOut:
    """Repeats a shared batch for the members where their computation parts.

    Args:
        network: the module that contains ``entries``.
        entries: names of the sub-modules before which tensors are repeated.
        num_members: M.
    """

    def __init__(self, network: nn.Module, entries: list[str], num_members: int):
        self.num_members = num_members
        self.entries = entries
        self._rows: int | None = None
        self._handles: list[RemovableHandle] = [
            network.get_submodule(name).register_forward_pre_hook(self._repeat, with_kwargs=True) for name in entries
        ]

    @contextmanager
    def of(self, rows: int) -> Iterator[None]:
        """Within the block, tensors of ``rows`` rows that reach an entry are repeated for the members."""
        self._rows = rows
        try:
            yield
        finally:
            self._rows = None

    def _repeat(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        if self._rows is None or self.num_members == 1:
            return None

        def repeat(value: Any) -> Any:
            shared = isinstance(value, Tensor) and value.ndim > 0 and len(value) == self._rows
            return fan_out(value, self.num_members) if shared else value

        return tuple(repeat(value) for value in args), {key: repeat(value) for key, value in kwargs.items()}


def entries(blocks: list[str], adapted: list[str]) -> list[str]:
    """Where a network with residual ``blocks`` and member-specific layers ``adapted`` fans out.

    Args:
        blocks: names of the residual blocks in the order in which they run.
        adapted: names of the member-specific layers.

    Returns:
        The first block that contains an adapted layer and all after it, then the adapted layers outside any block
        (a patch embedding, say), which fan out at themselves.
    """
    inside = [any(layer.startswith(f"{block}.") for layer in adapted) for block in blocks]
    first = inside.index(True) if any(inside) else len(blocks)
    outside = [layer for layer in adapted if not any(layer.startswith(f"{block}.") for block in blocks)]
    return blocks[first:] + outside
