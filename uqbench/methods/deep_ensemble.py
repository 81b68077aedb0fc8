"""Deep ensembles (Lakshminarayanan et al. 2017, arXiv 1612.01474): M networks, each trained on its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from uqbench.errors import CheckpointError, check
from uqbench.members.network import NetworkList
from uqbench.methods.base import BuildBackbone, Method, Stage
from uqbench.methods.single import build_member
from uqbench.task import Classification


class DeepEnsemble(Method):
    """M independent networks: own initial head (and weights, where those are random), own data order, own fit.

    Every member sees the whole training set (the paper's section 3.1 found bagging to hurt). Member 0 is the single
    network of the same seed.

    Args:
        name: the method's name in records and run directories.
        num_members: M.
        train: what of each member is trained, see `Single`.
        members_from: run directories of M finished ``method=single`` runs to assemble instead of training; the first
            becomes member 0 and so on.
        **settings: see `Method`.
    """

    def __init__(
        self,
        name: str = "deep_ensemble",
        num_members: int = 4,
        train: Literal["everything", "head"] = "everything",
        members_from: list[str] | None = None,
        **settings: Any,
    ):
        super().__init__(name, num_members, **settings)
        check(
            not members_from or len(members_from) == num_members,
            f"method.members_from names {len(members_from or ())} runs, but method.num_members is {num_members}",
        )
        self.train, self.members_from = train, members_from

    def prepare(self, build: BuildBackbone, task: Classification, seed: int) -> NetworkList:
        self.check_task(task)
        members = [build_member(build, task, seed, m, self.train, self.head_std) for m in range(self.num_members)]
        return NetworkList(members)

    def stages(self) -> Sequence[Stage]:
        finished = [Path(run) / "stages" / "fit.safetensors" for run in self.members_from or ()]
        missing = [str(path.parent.parent) for path in finished if not path.exists()]
        if missing:
            raise CheckpointError(f"method.members_from: no finished member in {', '.join(missing)}; run those first")
        return [
            Stage(f"member-{m}", f"member/{m}", member=m, done=finished[m] if finished else None)
            for m in range(self.num_members)
        ]
