"""Shifted test sets: the official CIFAR-10-C files, or corruptions generated on the fly."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from uqbench.data.corruptions import CIFAR_C, CORRUPTIONS, check_generated, corrupt
from uqbench.errors import DataError, check


@runtime_checkable
class Shift(Protocol):
    """A test set under corruptions of several severities.

    Attributes:
        corruptions: their names.
        severities: numbers from 1 to 5.
        limit: how many test rows are corrupted; None is all.
    """

    corruptions: list[str]
    severities: list[int]
    limit: int | None

    def setup(self, labels: Tensor) -> None:
        """Checks what there is against the labels of the whole test split; raises `DataError`."""
        ...

    def read(self, images: Tensor, rows: Tensor, corruption: str, severity: int) -> Tensor:
        """The corrupted images uint8 ``[B, 3, h, w]`` of clean ones ``[B, 3, H, W]``, rows of the test split."""
        ...

    def describe(self, title: str) -> dict[str, Any]:
        """What was read or generated, for the record; ``label`` names it in one phrase."""
        ...

    @property
    def fingerprint(self) -> str:
        """A hash of what makes the shifted images, given the clean ones."""
        ...


def _check_settings(corruptions: list[str], severities: list[int], limit: int | None) -> None:
    check(len(corruptions) > 0, "data.shift.corruptions must not be empty; for no shift set data.shift=null")
    check(len(set(corruptions)) == len(corruptions), f"data.shift.corruptions={corruptions}: a name occurs twice")
    good = len(severities) > 0 and len(set(severities)) == len(severities) and all(1 <= s <= 5 for s in severities)
    check(good, f"data.shift.severities={severities} must be different numbers from 1 to 5")
    check(limit is None or limit >= 1, f"data.shift.limit={limit} must be at least 1")


class GeneratedShift:
    """Corruptions of any image set, generated from the published constants (see `uqbench.data.corruptions`).

    Args:
        corruptions: names; None is all that can be generated.
        severities: numbers from 1 to 5.
        limit: corrupt only so many rows of the test split, a stratified subset that is the same for all corruptions.
        resolution: images whose short side is less are resized to it first, since the constants are for 32 pixels.
        seed: seed of the random corruptions; not the run's, so that all runs are compared on the same images.
    """

    def __init__(
        self,
        corruptions: list[str] | None = None,
        severities: list[int] | None = None,
        limit: int | None = None,
        resolution: int = 32,
        seed: int = 0,
    ):
        self.corruptions = list(CORRUPTIONS) if corruptions is None else list(corruptions)
        self.severities = [1, 2, 3, 4, 5] if severities is None else list(severities)
        self.limit, self.resolution, self.seed = limit, resolution, seed
        _check_settings(self.corruptions, self.severities, limit)
        check_generated(self.corruptions, "data.shift.corruptions")
        check(1 <= resolution <= 1024, f"data.shift.resolution={resolution} must be in [1, 1024]")

    def setup(self, labels: Tensor) -> None:
        """There is nothing to check."""

    def read(self, images: Tensor, rows: Tensor, corruption: str, severity: int) -> Tensor:
        short = min(images.shape[-2:])
        if short < self.resolution:
            size = [round(side * self.resolution / short) for side in images.shape[-2:]]
            images = F.interpolate(images.float(), size=size, mode="bilinear").round().to(torch.uint8)
        return corrupt(images, corruption, severity, self.seed, rows)

    def describe(self, title: str) -> dict[str, Any]:
        return {
            "label": f"{title}-C (regenerated: {len(self.corruptions)} of {len(CIFAR_C)})",
            "origin": "generated",
            "corruptions": self.corruptions,
            "severities": self.severities,
            "constants": "CIFAR-10-C, 32x32",
            "resolution": self.resolution,
            "seed": self.seed,
        }

    @property
    def fingerprint(self) -> str:
        """Covers the settings."""
        return hashlib.sha256(json.dumps(self.describe(""), sort_keys=True).encode()).hexdigest()[:16]


class CIFARC:
    """The official files of CIFAR-10-C or CIFAR-100-C, read where they lie.

    ``<corruption>.npy`` is uint8 ``[50000, 32, 32, 3]``: five times the test set in its order, severity 1 first;
    ``labels.npy`` is the test set's labels five times. The archives are Zenodo records 2535967 and 3555552.

    Args:
        path: the unpacked directory.
        corruptions: names; None is all nineteen.
        severities: numbers from 1 to 5.
        limit: use only so many rows of the test split, a stratified subset that is the same for all corruptions.
    """

    def __init__(
        self,
        path: str | None = None,
        corruptions: list[str] | None = None,
        severities: list[int] | None = None,
        limit: int | None = None,
    ):
        self.path = path
        self.corruptions = list(CIFAR_C) if corruptions is None else list(corruptions)
        self.severities = [1, 2, 3, 4, 5] if severities is None else list(severities)
        self.limit = limit
        _check_settings(self.corruptions, self.severities, limit)
        unknown = sorted(set(self.corruptions) - set(CIFAR_C))
        check(not unknown, f"data.shift.corruptions: unknown {unknown}; there are {', '.join(CIFAR_C)}")
        self._files: dict[str, Any] = {}
        self._size = 0

    def setup(self, labels: Tensor) -> None:
        """Opens the files.

        Args:
            labels: labels of the whole test split, in its order, int64 ``[N]``.

        Raises:
            DataError: a file is missing, damaged or of another shape, or the labels are not the test set's.
        """
        import numpy as np

        directory = Path(self.path).expanduser() if self.path else None
        if directory is None or not directory.is_dir():
            state = "is not set" if directory is None else "is not a directory"
            raise DataError(
                f"CIFAR-C: data.shift.path={self.path} {state}; give the directory of <corruption>.npy and labels.npy "
                "(zenodo.org/records/2535967), or generate the corruptions (uqbench.data.shift.GeneratedShift)"
            )
        self._size = len(labels)
        found = self._open(directory / "labels.npy", (5 * len(labels),), labels=True)
        if not np.array_equal(np.asarray(found[:]).astype(np.int64), labels.repeat(5).numpy()):
            raise DataError(
                f"CIFAR-C: {directory / 'labels.npy'} is not five times the labels of the test split; the directory "
                "belongs to another data set, or the test split has another order"
            )
        self._files = {
            name: self._open(directory / f"{name}.npy", (5 * len(labels), 32, 32, 3)) for name in self.corruptions
        }

    def _open(self, file: Path, shape: tuple[int, ...], labels: bool = False) -> Any:
        import numpy as np

        try:
            array = np.load(file, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise DataError(f"CIFAR-C: {file} is missing; unpack the whole archive there") from None
        except Exception as error:  # numpy raises EOFError, OSError or ValueError, by where the file is cut
            raise DataError(f"CIFAR-C: {file} is damaged or cut short ({error}); download it again") from error
        kind = array.dtype == np.uint8 or (labels and array.dtype.kind in "iu")
        if array.shape != shape or not kind:
            raise DataError(f"CIFAR-C: {file} is {array.dtype} {array.shape}, expected uint8 {shape}")
        return array

    def read(self, images: Tensor, rows: Tensor, corruption: str, severity: int) -> Tensor:
        """The official images of the rows; the clean ones are not looked at."""
        import numpy as np

        block = np.asarray(self._files[corruption][(severity - 1) * self._size + rows.numpy()])
        return torch.from_numpy(np.ascontiguousarray(block.transpose(0, 3, 1, 2)))

    def describe(self, title: str) -> dict[str, Any]:
        return {
            "label": f"{title}-C (official files: {len(self.corruptions)} of {len(CIFAR_C)})",
            "origin": "read",
            "path": self.path,
            "corruptions": self.corruptions,
            "severities": self.severities,
        }

    @property
    def fingerprint(self) -> str:
        """Covers the names and severities, and every 997th image of each file."""
        import numpy as np

        digest = hashlib.sha256(json.dumps([self.corruptions, self.severities]).encode())
        for array in self._files.values():
            digest.update(np.ascontiguousarray(array[::997]).data)
        return digest.hexdigest()[:16]
