"""One network: the baseline, and the member of a deep ensemble."""

from __future__ import annotations

from typing import Any, Literal

from uqbench.members.head import MemberHead
from uqbench.members.network import Network
from uqbench.methods.base import BuildBackbone, Method
from uqbench.seeding import named_seed
from uqbench.task import Classification


class Single(Method):
    """A single deterministic network.

    Args:
        name: the method's name in records and run directories.
        train: ``everything``: the whole network; ``head``: the classifier on frozen features, a linear probe. For
            singular values only (SVF), use ``method=sve method.num_members=1``.
        **settings: see `Method`.
    """

    def __init__(self, name: str = "single", train: Literal["everything", "head"] = "everything", **settings: Any):
        super().__init__(name, num_members=1, **settings)
        self.train = train

    def prepare(self, build: BuildBackbone, task: Classification, seed: int) -> Network:
        self.check_task(task)
        return build_member(build, task, seed, member=0, train=self.train, head_std=self.head_std)


def build_member(
    build: BuildBackbone, task: Classification, seed: int, member: int, train: str, head_std: float
) -> Network:
    """Builds the network that is member ``member`` of the deep ensemble with this seed; member 0 is the single one."""
    backbone = build(named_seed(seed, "member", member)).requires_grad_(train == "everything")
    head = MemberHead(1, backbone.num_features, task.num_outputs, head_std, seed, first_member=member)
    return Network(backbone, head)
