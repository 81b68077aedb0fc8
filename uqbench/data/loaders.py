"""Batches of rows, and their order: a pure function of (seed, stream, epoch).

A data set's items are whole batches here: the sampler yields the rows of a batch, the data set answers with tensors.
An in-memory set is then read by one indexing operation per batch, and a worker knows the epoch it reads for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from uqbench.errors import DataError, check
from uqbench.seeding import generator

MemberBatches = Literal["shared", "independent", "bootstrap"]


@dataclass(frozen=True)
class BatchRows:
    """The rows of one batch.

    Attributes:
        index: rows of the split, int64 ``[B]``, or ``[M*B]`` member-major.
        epoch: the epoch they are read in.
        members: M where every member has rows of its own, None where all share one batch.
    """

    index: Tensor
    epoch: int = 0
    members: int | None = None


class TrainBatches(Sampler[BatchRows]):
    """The batches of an epoch, in random order.

    With ``shared`` batches the order is the stream (seed, stream, "order", epoch). With ``independent`` ones member m
    has the order (seed, stream, "member", m, "order", epoch); with ``bootstrap`` that order runs over a resample with
    replacement, (seed, stream, "member", m, "bootstrap"), the same in every epoch. A member's rows do not depend on the
    number of members.

    Args:
        size: rows of the training split.
        batch_size: rows of a batch, per member.
        seed: the run's seed.
        stream: what is trained, for example "train" or "member/3".
        num_members: M; without effect on shared batches.
        member_batches: who shares batches with whom.
        drop_last: leave out the last batch of an epoch if it is not full.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        stream: str,
        num_members: int = 1,
        member_batches: MemberBatches = "shared",
        drop_last: bool = False,
    ):
        known = ("shared", "independent", "bootstrap")
        check(member_batches in known, f"member_batches={member_batches!r} must be one of {known}")
        check(num_members >= 1, f"num_members={num_members} must be at least 1")
        check(
            not drop_last or size >= batch_size,
            f"data.drop_last=true leaves no batch: {size} training rows, data.batch_size={batch_size}",
        )
        self.size, self.batch_size, self.seed, self.stream = size, batch_size, seed, stream
        self.num_members, self.member_batches, self.drop_last = num_members, member_batches, drop_last
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch of the next iteration; Lightning calls it at the start of each."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size // self.batch_size if self.drop_last else -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[BatchRows]:
        epoch = self.epoch
        members = None if self.member_batches == "shared" else self.num_members
        orders = torch.stack([self._order(epoch, member) for member in ([None] if members is None else range(members))])
        for batch in range(len(self)):
            rows = orders[:, batch * self.batch_size : (batch + 1) * self.batch_size]
            yield BatchRows(rows.reshape(-1), epoch, members)

    def _order(self, epoch: int, member: int | None) -> Tensor:
        name = (self.stream,) if member is None else (self.stream, "member", member)
        order = torch.randperm(self.size, generator=generator(self.seed, *name, "order", epoch))
        if self.member_batches != "bootstrap":
            return order
        resample = torch.randint(self.size, (self.size,), generator=generator(self.seed, *name, "bootstrap"))
        return resample[order]


class EvalBatches(Sampler[BatchRows]):
    """All rows in their order."""

    def __init__(self, size: int, batch_size: int):
        self.size, self.batch_size = size, batch_size

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[BatchRows]:
        for rows in torch.arange(self.size).split(self.batch_size):
            yield BatchRows(rows)


class BatchDataset(Dataset[dict[str, Tensor]]):
    """Answers `BatchRows` with a batch: ``image`` uint8, ``target`` int64 ``[B]``, ``index`` int64 ``[B]``."""

    def __init__(self, read: Callable[[BatchRows], Tensor], labels: Tensor):
        self.read, self.labels = read, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, batch: BatchRows) -> dict[str, Tensor]:
        return {"image": self.read(batch), "target": self.labels[batch.index], "index": batch.index}


class Loader(DataLoader[dict[str, Tensor]]):
    """A `DataLoader` over whole batches that leaves the global random state alone.

    Args:
        dataset: what is read.
        batches: the sampler; Lightning finds its ``set_epoch`` as ``loader.sampler``.
        num_workers: processes that read.
    """

    def __init__(self, dataset: BatchDataset, batches: Sampler[BatchRows], num_workers: int = 0):
        super().__init__(
            dataset,
            sampler=batches,
            batch_size=None,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            # A DataLoader seeds its workers from the global state unless it is given one.
            generator=generator(0, "loader"),
        )

    def __iter__(self) -> Any:
        batches = super().__iter__()
        return _OneLine(batches) if self.num_workers else batches


class _OneLine:
    """Passes batches on; a worker's `DataError` comes wrapped in its traceback, of which the last line is the error."""

    def __init__(self, batches: Any):
        self.batches = batches

    def __iter__(self) -> _OneLine:
        return self

    def __len__(self) -> int:
        return len(self.batches)

    def __next__(self) -> dict[str, Tensor]:
        try:
            return next(self.batches)
        except DataError as error:
            raise DataError(str(error).strip().splitlines()[-1].split("DataError: ", 1)[-1]) from None
