"""What a method is: how a backbone becomes a network with members, how it is trained, and how it predicts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from uqbench.backbones.base import Backbone
from uqbench.errors import ConfigError, check
from uqbench.members.head import MemberHead
from uqbench.members.network import AnyNetwork, Batch, Network, NetworkList
from uqbench.predictive import Average, Predictive
from uqbench.task import Classification

MemberBatches = Literal["shared", "independent", "bootstrap"]
BuildBackbone = Callable[[int], Backbone]
"""Builds the backbone; the argument is the seed of what is random in it."""


@runtime_checkable
class DecaysItself(Protocol):
    """A member-specific layer that says which of its parameters weight decay must leave alone."""

    def undecayed(self) -> list[nn.Parameter]: ...


@dataclass(frozen=True)
class Stage:
    """One fit. Its checkpoint is ``stages/<name>.safetensors``; a resumed run skips a stage that has it.

    Attributes:
        name: the stage's name.
        stream: the first part of the names of its random streams: data order, augmentation, dropout.
        member: the member of a `NetworkList` that is trained alone; None for the whole network.
        done: a finished checkpoint from elsewhere to take instead of training.
    """

    name: str
    stream: str
    member: int | None = None
    done: Path | None = None

    def part(self, network: AnyNetwork) -> AnyNetwork:
        """The part of the network that this stage trains."""
        if self.member is None:
            return network
        assert isinstance(network, NetworkList)
        return network.members[self.member]  # type: ignore[return-value]


class Method(ABC):
    """Base of all methods. Sub-classes are built by Hydra from typed settings, cheaply.

    Args:
        name: the method's name in records and run directories.
        num_members: M.
        average: what the prediction averages, see `Predictive`.
        member_batches: whether members share each mini-batch, walk the data in their own order, or walk their own
            bootstrap resample.
        loss_reduction: ``mean`` of the member losses (the papers'), or their ``sum``, which gives every member the
            gradient it would have alone.
        head_std: standard deviation of the initial weights of the heads.

    Attributes:
        tasks: names of the tasks that the method can serve.
    """

    tasks = frozenset({"classification"})

    def __init__(
        self,
        name: str,
        num_members: int = 1,
        average: Average = "probs",
        member_batches: MemberBatches = "shared",
        loss_reduction: Literal["mean", "sum"] = "mean",
        head_std: float = 0.01,
    ):
        check(num_members >= 1, f"method.num_members must be at least 1, got {num_members}")
        check(head_std >= 0, f"method.head_std must not be negative, got {head_std}")
        self.name, self.num_members, self.average = name, num_members, average
        self.member_batches, self.loss_reduction, self.head_std = member_batches, loss_reduction, head_std

    @abstractmethod
    def prepare(self, build: BuildBackbone, task: Classification, seed: int) -> AnyNetwork:
        """Builds the network: injects, copies or freezes, and adds the heads.

        Raises:
            ConfigError: if the method cannot serve this backbone or task; the message says what it can.
        """

    def stages(self) -> Sequence[Stage]:
        """The fits, in order. One for the whole network unless a method says otherwise."""
        return [Stage("fit", "member/0")]

    def loss(self, network: AnyNetwork, task: Classification, batch: Batch) -> Tensor:
        """The training loss of a batch in nats: the members' own losses, reduced, never the loss of their mean."""
        if self.member_batches == "shared" or network.num_members == 1:
            logits = network(batch)
        else:
            assert isinstance(network, Network)  # the members of a NetworkList are trained one by one
            logits = network.forward_folded(batch)
        losses = task.member_losses(logits, batch["target"])
        return losses.mean() if self.loss_reduction == "mean" else losses.sum()

    def predict(self, network: AnyNetwork, task: Classification, batch: Batch) -> Predictive:
        """The predictive distribution of a batch of B examples."""
        return task.predictive(network(batch), self.average)

    def parameter_groups(self, network: AnyNetwork) -> list[dict[str, Any]]:
        """What the optimiser trains, as ``backbone`` and ``head`` groups; ``weight_decay: 0.0`` is never decayed."""
        exempt = {id(p) for m in network.modules() if isinstance(m, DecaysItself) for p in m.undecayed()}
        heads = {id(p) for m in network.modules() if isinstance(m, MemberHead) for p in m.parameters()}
        trained = [p for p in network.parameters() if p.requires_grad]
        body = [p for p in trained if id(p) not in heads]
        groups: list[dict[str, Any]] = [
            {"name": "backbone", "params": [p for p in body if id(p) not in exempt]},
            {"name": "undecayed", "params": [p for p in body if id(p) in exempt], "weight_decay": 0.0},
            {"name": "head", "params": [p for p in trained if id(p) in heads]},
        ]
        return [group for group in groups if group["params"]]

    def check_task(self, task: Classification) -> None:
        """Raises `ConfigError` if the method cannot serve the task."""
        if task.name not in self.tasks:
            raise ConfigError(f"method={self.name} serves {', '.join(sorted(self.tasks))}, not {task.name}")
