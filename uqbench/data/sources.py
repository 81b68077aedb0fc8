"""Where images come from: a hub data set or a local directory, through `datasets.load_dataset`."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

import torch
from torch import Tensor

from uqbench.data.images import EncodedImages, Images
from uqbench.errors import DataError, check

ROLES = ("train", "val", "test")


@runtime_checkable
class Source(Protocol):
    """What a data set is read from.

    Attributes:
        splits: which of ``train``, ``val`` and ``test`` there are, and what the source calls them.
        num_classes: labels are 0 .. num_classes - 1.
    """

    splits: dict[str, str]
    num_classes: int

    def read(self, split: str) -> Images:
        """The rows of ``train``, ``val`` or ``test``; raises `DataError`."""
        ...

    def describe(self) -> dict[str, Any]:
        """What the rows are, for the record."""
        ...


class HubImages:
    """An image-classification set of the Hugging Face hub, or a local directory with the same columns.

    The local directory holds what `datasets.load_dataset` opens: parquet files named after the splits, or
    ``<split>/<class>/<file>`` image folders, whose columns are ``image`` and ``label`` and whose classes are numbered
    in alphabetical order. A hub set that was loaded once is found in the datasets cache without a network.

    Args:
        hub: name on the hub, ``owner/name``.
        image: the image column.
        label: the label column.
        splits: ``train``, ``val`` and ``test``, as far as there are any, to the names of the set's splits.
        num_classes: number of classes.
        path: local directory to read instead of the hub.
        config: the hub set's configuration, where it has several.
        revision: the hub set's branch, tag or commit.
        timeout: seconds to wait for an answer of the hub before the cache alone is looked at.
    """

    def __init__(
        self,
        hub: str,
        image: str,
        label: str,
        splits: dict[str, str],
        num_classes: int,
        path: str | None = None,
        config: str | None = None,
        revision: str | None = None,
        timeout: float = 5.0,
    ):
        check("/" in hub, f"source.hub={hub!r} must be 'owner/name'")
        unknown = sorted(set(splits) - set(ROLES))
        check(not unknown, f"source.splits: unknown {unknown}; known are {list(ROLES)}")
        check("train" in splits, "source.splits must name the 'train' split")
        check(num_classes >= 2, f"source.num_classes={num_classes} must be at least 2")
        check(timeout > 0, f"source.timeout={timeout} must be positive")
        self.hub, self.image, self.label, self.num_classes = hub, image, label, num_classes
        self.splits = {role: splits[role] for role in ROLES if role in splits}
        self.path, self.config, self.revision, self.timeout = path, config, revision, timeout

    def describe(self) -> dict[str, Any]:
        return {"hub": self.hub, "path": self.path, "config": self.config, "revision": self.revision}

    def read(self, split: str) -> Images:
        """The rows of a split, still encoded (see `Images.load`).

        Args:
            split: ``train``, ``val`` or ``test``.

        Raises:
            DataError: the set cannot be found or opened, has other columns, or has labels out of range.
        """
        name = self.splits[split]
        table = self._open_local(name) if self.path else self._open_hub(name)
        where = f"{self.path or self.hub}, split '{name}'"
        if len(table) == 0:
            raise DataError(f"{where}: no rows")
        image, label = self._columns(table, where)
        labels = self._labels(table, label, where)
        import datasets

        try:
            table = table.cast_column(image, datasets.Image(decode=False))
        except Exception as error:
            raise DataError(f"{where}: column '{image}' does not hold images ({_first_line(error)})") from error
        return EncodedImages(table, image, labels, where)

    def _open_local(self, name: str) -> Any:
        directory = Path(str(self.path)).expanduser()
        if not directory.is_dir():
            state = "is not a directory" if directory.exists() else "does not exist"
            raise DataError(f"{self.hub}: data.path={self.path} {state}; give the directory that holds its files")
        import datasets

        try:
            known = datasets.get_dataset_config_names(str(directory))
            config = self.config if self.config in known else None
            return datasets.load_dataset(str(directory), config, split=name)
        except Exception as error:
            raise DataError(
                f"{self.hub}: cannot read split '{name}' from data.path={self.path} ({_first_line(error)}); expected "
                f"{name}.parquet or {name}/<class>/<image>, complete and undamaged"
            ) from error

    def _open_hub(self, name: str) -> Any:
        import datasets

        with _hub(self.timeout) as reachable:
            try:
                return datasets.load_dataset(self.hub, self.config, split=name, revision=self.revision)
            except Exception as error:
                hub = "answered" if reachable else "is off (HF_HUB_OFFLINE) or does not answer"
                raise DataError(
                    f"{self.hub}: not to be had (the hub {hub}; cache {datasets.config.HF_DATASETS_CACHE}; "
                    f"{_first_line(error)}); supply it with data.path=DIR, a directory with {name}.parquet or "
                    f"{name}/<class>/<image>"
                ) from error

    def _columns(self, table: Any, where: str) -> tuple[str, str]:
        names = list(table.column_names)
        if self.path and set(names) == {"image", "label"}:
            return "image", "label"  # an image folder, whose columns are always called so
        missing = [column for column in (self.image, self.label) if column not in names]
        if missing:
            raise DataError(f"{where}: no column {missing}, it has {names}; set source.image and source.label")
        return self.image, self.label

    def _labels(self, table: Any, column: str, where: str) -> Tensor:
        values = table[column][:]
        wrong = next((row for row, value in enumerate(values) if type(value) is not int), None)
        if wrong is not None:
            raise DataError(f"{where}: column '{column}', row {wrong} is {values[wrong]!r}, expected a class number")
        labels = torch.tensor(values, dtype=torch.int64)
        outside = ((labels < 0) | (labels >= self.num_classes)).nonzero().flatten()
        if len(outside):
            row = int(outside[0])
            raise DataError(
                f"{where}: column '{column}' has {len(outside)} labels outside 0..{self.num_classes - 1}, the first in "
                f"row {row}: {int(labels[row])}; is this the right set?"
            )
        return labels


@contextmanager
def _hub(timeout: float) -> Iterator[bool]:
    """Loads from the cache alone while the hub does not answer.

    Left alone, `datasets` retries an unreachable hub for half a minute. The two libraries read HF_HUB_OFFLINE when
    they are imported; setting what they read is the only switch they have afterwards.

    Yields:
        Whether the hub will be asked.
    """
    import datasets
    import huggingface_hub

    configs: list[Any] = [datasets.config, huggingface_hub.constants]
    before = [config.HF_HUB_OFFLINE for config in configs]
    reachable = not any(before) and _answers(huggingface_hub.constants.ENDPOINT, timeout)
    try:
        for config in configs:
            config.HF_HUB_OFFLINE = not reachable
        yield reachable
    finally:
        for config, value in zip(configs, before, strict=True):
            config.HF_HUB_OFFLINE = value


def _answers(endpoint: str, timeout: float) -> bool:
    """Whether the endpoint's host takes a connection; taken for granted behind a proxy."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    url = urlsplit(endpoint)
    try:
        with socket.create_connection((url.hostname or "", url.port or 443), timeout=timeout):
            return True
    except OSError:
        return False


def _first_line(error: BaseException) -> str:
    """The innermost cause in one line: `datasets` wraps what went wrong in a general message."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
