"""Image classification data: splits, loaders and transforms (the data object of docs/architecture.md)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from uqbench.data.augment import RandomResizedCrop, Transform
from uqbench.data.images import Images, PixelImages
from uqbench.data.loaders import BatchDataset, EvalBatches, Loader, MemberBatches, TrainBatches
from uqbench.data.readers import EvalReader, TrainReader
from uqbench.data.shift import Shift
from uqbench.data.sources import Source
from uqbench.data.splits import hold_out, stratified_subset
from uqbench.data.transforms import NetworkInput
from uqbench.errors import DataError, check

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class _Split:
    """Rows of a source: ``images`` are those at ``rows`` (ascending) of what the source calls the split."""

    images: Images
    rows: Tensor


class VisionData:
    """An image set with its validation, test, shifted and out-of-distribution splits.

    Images of one size are held in memory as uint8 and resized, augmented and normalised on the batch's device. Images
    of different sizes, or with sides of more than twice ``image_size``, are decoded and cropped by the loader, with the
    same result for any number of workers.

    Args:
        name: what the set is called in a command.
        title: what it is called in print.
        source: where it is read from.
        image_size: side of the network's input in pixels.
        mean: of the normalisation, per colour, for values in [0, 1].
        std: of the normalisation.
        batch_size: rows of a training batch, per member.
        eval_batch_size: rows of an evaluation batch.
        augment: transforms of the training images, in order (see `uqbench.data.augment`). They see images of
            ``image_size``, except that a RandomResizedCrop at the head takes the original pixels.
        eval_crop: None resizes evaluation images straight to ``image_size``; otherwise the centre is cropped after the
            short side is resized to ``image_size / eval_crop`` (0.875: 224 of 256 pixels).
        val_fraction: share of the training rows held out for validation, if the source has no validation split.
        test_fraction: share of the rows held out for testing; needed if the source has no test split, else unused.
        split_seed: seed of every choice of rows. It is not the run's, so that all runs see the same split.
        train_limit: train on so many rows only: a stratified subset, inside that of any larger limit.
        val_limit: validate on so many rows only, chosen likewise.
        test_limit: test on so many rows only, chosen likewise.
        drop_last: leave out the last training batch of an epoch if it is not full.
        num_workers: processes that decode or corrupt images; images in memory are read without.
        shift: corruptions of the test rows.
        ood: out-of-distribution sets by name; their test rows, or all rows where there is no test split.
        ood_limit: use only so many rows of each of them.
        path: local directory of the set; handed to the source by the configuration, kept here for the record.
    """

    def __init__(
        self,
        name: str,
        title: str,
        source: Source,
        image_size: int,
        mean: list[float],
        std: list[float],
        batch_size: int = 128,
        eval_batch_size: int = 512,
        augment: list[Transform] | None = None,
        eval_crop: float | None = None,
        val_fraction: float = 0.1,
        test_fraction: float | None = None,
        split_seed: int = 0,
        train_limit: int | None = None,
        val_limit: int | None = None,
        test_limit: int | None = None,
        drop_last: bool = False,
        num_workers: int = 0,
        shift: Shift | None = None,
        ood: dict[str, Source] | None = None,
        ood_limit: int | None = None,
        path: str | None = None,
    ):
        positive = {"image_size": image_size, "batch_size": batch_size, "eval_batch_size": eval_batch_size}
        limits = {"train_limit": train_limit, "val_limit": val_limit, "test_limit": test_limit, "ood_limit": ood_limit}
        for key, value in {**positive, **limits}.items():
            check(value is None or value >= 1, f"data.{key}={value} must be at least 1")
        check(len(mean) == 3 and len(std) == 3 and min(std) > 0,
              f"data.mean={list(mean)}, data.std={list(std)}: expected three numbers each, std positive")  # fmt: skip
        check(0 < val_fraction < 1, f"data.val_fraction={val_fraction} must be in (0, 1)")
        check("test" in source.splits or (test_fraction is not None and 0 < test_fraction < 1),
              f"data.test_fraction={test_fraction} must be in (0, 1): {name} has no test split")  # fmt: skip
        check(eval_crop is None or 0.5 <= eval_crop <= 1,
              f"data.eval_crop={eval_crop} must be in [0.5, 1] or null: the crop would show too little")  # fmt: skip
        check(num_workers >= 0, f"data.num_workers={num_workers} must not be negative")
        augment = list(augment or [])
        for place, transform in enumerate(augment):
            check(callable(transform), f"data.augment[{place}]={transform!r} is not one of uqbench.data.augment")
            size = getattr(transform, "size", image_size)
            check(size == image_size, f"data.augment[{place}].size={size} must be data.image_size={image_size}")
        self.name, self.title, self.source, self.path = name, title, source, path
        self.image_size, self.mean, self.std = image_size, list(mean), list(std)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.augment = augment
        self.eval_resize = None if eval_crop is None else round(image_size / eval_crop)
        self.val_fraction, self.test_fraction, self.split_seed = val_fraction, test_fraction, split_seed
        self.train_limit, self.val_limit, self.test_limit = train_limit, val_limit, test_limit
        self.drop_last, self.num_workers = drop_last, num_workers
        self.shift, self.ood, self.ood_limit = shift, dict(ood or {}), ood_limit
        self.num_classes = source.num_classes
        self._splits: dict[str, _Split] = {}
        self._input = NetworkInput(image_size, self.mean, self.std)

    def setup(self) -> None:
        """Reads and checks everything, once.

        Raises:
            DataError: a set is missing, damaged, or not what the settings say.
            ConfigError: a limit is larger than the set.
        """
        if self._splits:
            return
        train = self.source.read("train")
        train_rows = torch.arange(len(train))
        if "test" in self.source.splits:
            test = self.source.read("test")
            test_rows = torch.arange(len(test))
        else:
            assert self.test_fraction is not None  # __init__ refused the settings otherwise
            test = train
            test_rows, train_rows = hold_out(train.labels, train_rows, self.test_fraction, self.split_seed, "test")
        if "val" in self.source.splits:
            val = self.source.read("val")
            val_rows = torch.arange(len(val))
        else:
            val = train
            val_rows, train_rows = hold_out(train.labels, train_rows, self.val_fraction, self.split_seed, "val")
        splits = {
            "train": self._take(train, train_rows, self.train_limit, "train"),
            "val": self._take(val, val_rows, self.val_limit, "val"),
            "test": self._take(test, test_rows, self.test_limit, "test"),
        }
        if self.shift is not None:
            self.shift.setup(test.labels)
            rows = splits["test"].rows
            chosen = self._subset(test.labels[rows], self.shift.limit, "shift", strict=False)
            splits["shift"] = _Split(splits["test"].images.select(chosen), rows[chosen])
        for name, source in self.ood.items():
            images = self._read_ood(name, source)
            chosen = self._subset(images.labels, self.ood_limit, f"ood/{name}", strict=False)
            splits[f"ood/{name}"] = _Split(self._load(images.select(chosen)), chosen)
        self._splits = splits

    @staticmethod
    def _read_ood(name: str, source: Source) -> Images:
        try:
            return source.read("test" if "test" in source.splits else "train")
        except DataError as error:
            # A source names the settings of the main set, which is what it is nearly always used for.
            message = str(error).replace("data.path", f"data.ood.{name}.path").replace("source.", f"data.ood.{name}.")
            raise DataError(f"{message}; or leave the set out with '~data.ood.{name}'") from error

    def _subset(self, labels: Tensor, limit: int | None, what: str, strict: bool = True) -> Tensor:
        """``limit`` of the rows, or all; ``strict`` refuses a limit larger than there are rows."""
        if limit is None or (not strict and limit >= len(labels)):
            return torch.arange(len(labels))
        check(limit <= len(labels), f"data.{what}_limit={limit}: {self.name} has {len(labels)} rows for it")
        return stratified_subset(labels, limit, self.split_seed, "limit", what)

    def _take(self, images: Images, rows: Tensor, limit: int | None, what: str) -> _Split:
        rows = rows[self._subset(images.labels[rows], limit, what)]
        return _Split(self._load(images.select(rows)), rows)

    def _load(self, images: Images) -> Images:
        """In memory, unless cropping on the device would alias: it samples bilinearly, without a filter."""
        return images.load(max_side=2 * self.image_size)

    @property
    def eval_splits(self) -> list[str]:
        """``val``, ``test``, ``shift/<corruption>/<severity>``, ..., ``ood/<set>``, ..."""
        shift = self.shift
        shifted = [f"shift/{c}/{s}" for c in shift.corruptions for s in shift.severities] if shift is not None else []
        return ["val", "test", *shifted, *(f"ood/{name}" for name in self.ood)]

    @property
    def counts(self) -> dict[str, int]:
        """Rows of ``train`` and of every split of `eval_splits`."""
        return {split: len(self._split(split).rows) for split in ["train", *self.eval_splits]}

    @property
    def fingerprint(self) -> str:
        """A hash of the rows of all splits and of what corrupts them, 16 hexadecimal digits."""
        self.setup()
        parts = {name: split.images.fingerprint for name, split in self._splits.items() if name != "shift"}
        if self.shift is not None:
            rows = self._splits["shift"].rows
            parts["shift"] = self.shift.fingerprint + hashlib.sha256(rows.contiguous().numpy().data).hexdigest()
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        """What the record says about the data."""
        self.setup()
        images = self._splits["train"].images
        return {
            "name": self.name,
            "title": self.title,
            "source": self.source.describe(),
            "num_classes": self.num_classes,
            "counts": self.counts,
            "fingerprint": self.fingerprint,
            "split_seed": self.split_seed,
            "validation": "source" if "val" in self.source.splits else "held out of the training rows",
            "test": "source" if "test" in self.source.splits else "held out of the only split",
            "storage": "uint8 in memory" if isinstance(images, PixelImages) else "decoded by the loader",
            "encoding": ", ".join(sorted(images.formats)) or None,
            "image_size": self.image_size,
            "shift": None if self.shift is None else self.shift.describe(self.title),
            "ood": {name: source.describe() for name, source in self.ood.items()},
        }

    def _split(self, split: str) -> _Split:
        known = ["train", *self.eval_splits]
        check(split in known, f"split '{split}': {self.name} has {', '.join(known)}")
        self.setup()
        return self._splits["shift" if split.startswith("shift/") else split]

    def train_loader(
        self, seed: int, stream: str, num_members: int = 1, member_batches: MemberBatches = "shared"
    ) -> Loader:
        """Training batches; the order is that of `uqbench.data.loaders.TrainBatches`.

        Args:
            seed: the run's seed.
            stream: what is trained, for example "train" or "member/3".
            num_members: M.
            member_batches: ``shared``: one batch of B rows for all members; ``independent``, ``bootstrap``: M*B rows,
                member-major.

        Returns:
            A loader of ``image`` (uint8), ``target`` and ``index`` (the row in the training split).
        """
        images = self._split("train").images
        size = len(images)
        batches = TrainBatches(size, self.batch_size, seed, stream, num_members, member_batches, self.drop_last)
        read = TrainReader(images, self.image_size, self.eval_resize, self._head, seed, stream)
        return Loader(BatchDataset(read, images.labels), batches, self._workers(images))

    def eval_loader(self, split: str) -> Loader:
        """The rows of a split of `eval_splits`, in their order; ``target`` is -1 on an out-of-distribution set."""
        found = self._split(split)
        images, corrupt = found.images, None
        labels = torch.full_like(images.labels, -1) if split.startswith("ood/") else images.labels
        if split.startswith("shift/"):
            assert self.shift is not None  # eval_splits has no such split otherwise
            _, corruption, severity = split.split("/")
            corrupt = partial(_corrupt, self.shift, found.rows, corruption, int(severity))
        read = EvalReader(images, self.image_size, self.eval_resize, corrupt)
        workers = self.num_workers if corrupt is not None else self._workers(images)
        return Loader(BatchDataset(read, labels), EvalBatches(len(labels), self.eval_batch_size), workers)

    def _workers(self, images: Images) -> int:
        return 0 if isinstance(images, PixelImages) else self.num_workers

    @property
    def _head(self) -> RandomResizedCrop | None:
        """The random crop that the augmentation starts with, if it does."""
        head = self.augment[0] if self.augment else None
        return head if isinstance(head, RandomResizedCrop) else None

    def train_transform(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Augments and normalises.

        Args:
            batch: of `train_loader`, on any device.
            generator: what the augmentation draws from; a CPU generator gives the same images on every device.

        Returns:
            The batch with ``image`` as float32 ``[B, 3, image_size, image_size]``.
        """
        images, transforms = self._input.convert(batch["image"]), self.augment
        if self._head is None:
            images = self._input.resize(images)
        elif not isinstance(self._split("train").images, PixelImages):
            transforms = transforms[1:]  # the loader has cropped
        for transform in transforms:
            images = transform(images, generator)
        return {**batch, "image": self._input.normalise(images)}

    def eval_transform(self, batch: Batch) -> Batch:
        """Resizes and normalises: ``image`` becomes float32 ``[B, 3, image_size, image_size]``."""
        images = self._input.resize(self._input.convert(batch["image"]))
        return {**batch, "image": self._input.normalise(images)}


def _corrupt(shift: Shift, test_rows: Tensor, corruption: str, severity: int, images: Tensor, index: Tensor) -> Tensor:
    """Corrupts the rows ``index`` of the shifted split, which are ``test_rows[index]`` of the whole test set."""
    return shift.read(images, test_rows[index], corruption, severity)
