"""Images with labels, in memory as uint8 where they all have one size, decoded row by row where they have not."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import torch
from torch import Tensor

from uqbench.errors import DataError

MAX_BYTES = 4 * 2**30


class Images:
    """Rows of images with their labels.

    Attributes:
        labels: class of each row, int64 ``[N]``.
        where: what the rows are, for messages.
        formats: file formats of the rows decoded so far, for the record: a set that went through JPEG is another set.
    """

    labels: Tensor
    where: str
    formats: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: Tensor) -> Images:
        """The given rows (int64), in their order."""
        raise NotImplementedError

    def decode(self, row: int) -> Tensor:
        """One image, uint8 ``[3, H, W]``."""
        raise NotImplementedError

    def load(self, max_bytes: int = MAX_BYTES, max_side: int | None = None) -> Images:
        """The same rows in memory, if they have one size, no side longer than ``max_side``, and fit ``max_bytes``."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        """A hash of the content, 16 hexadecimal digits; the same on every machine."""
        raise NotImplementedError


class PixelImages(Images):
    """Images of one size in memory.

    Args:
        pixels: uint8 ``[N, 3, H, W]``.
        labels: int64 ``[N]``.
        where: what they are, for messages.
        formats: the file formats they were decoded from.
    """

    def __init__(self, pixels: Tensor, labels: Tensor, where: str, formats: frozenset[str] = frozenset()):
        self.pixels, self.labels, self.where, self.formats = pixels, labels, where, formats

    def select(self, rows: Tensor) -> PixelImages:
        return PixelImages(self.pixels[rows], self.labels[rows], self.where, self.formats)

    def decode(self, row: int) -> Tensor:
        return self.pixels[row]

    def load(self, max_bytes: int = MAX_BYTES, max_side: int | None = None) -> PixelImages:
        return self

    @property
    def fingerprint(self) -> str:
        """Covers the shape, every pixel and every label."""
        digest = hashlib.sha256(repr(tuple(self.pixels.shape)).encode())
        digest.update(self.labels.contiguous().numpy().data)
        digest.update(self.pixels.contiguous().numpy().data)
        return digest.hexdigest()[:16]


class EncodedImages(Images):
    """Images that are decoded when they are asked for: the rows of a `datasets.Dataset`.

    Args:
        table: the data set, with its image column cast to ``datasets.Image(decode=False)``.
        column: the image column.
        labels: int64 ``[N]``, one for each of ``rows``.
        where: what they are, for messages.
        rows: rows of the table; default all.
    """

    block = 1024  # rows that are fetched from the table at once

    def __init__(self, table: Any, column: str, labels: Tensor, where: str, rows: Tensor | None = None):
        self.table, self.column, self.labels, self.where = table, column, labels, where
        self.rows = torch.arange(len(table)) if rows is None else rows

    def select(self, rows: Tensor) -> EncodedImages:
        return EncodedImages(self.table, self.column, self.labels[rows], self.where, self.rows[rows])

    def decode(self, row: int) -> Tensor:
        """One image, uint8 ``[3, H, W]``.

        Raises:
            DataError: the bytes are missing or are not an image.
        """
        index = int(self.rows[row])
        return self._decode(self.table[index][self.column], index)

    def _decode(self, cell: dict[str, Any] | None, index: int) -> Tensor:
        import numpy as np
        from PIL import Image

        try:
            content = _content(cell)
            with Image.open(io.BytesIO(content)) as image:
                # A palette's transparency would be dropped with a warning; through RGBA it is dropped in silence.
                see_through = image.mode == "P" and "transparency" in image.info
                self.formats |= {image.format or "unknown"}
                array = np.array((image.convert("RGBA") if see_through else image).convert("RGB"))
        except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, struct.error, ... on damaged bytes
            name = (cell or {}).get("path")
            place = f"row {index}" + (f" ({name})" if name else "")
            raise DataError(
                f"{self.where}: column '{self.column}', {place} is not a readable image ({_reason(error)}); "
                "replace the damaged file or download the set again"
            ) from error
        return torch.from_numpy(array).permute(2, 0, 1).contiguous()

    def load(self, max_bytes: int = MAX_BYTES, max_side: int | None = None) -> Images:
        """Decodes all rows into a `PixelImages`, or returns itself at the first row that speaks against it.

        Raises:
            DataError: a row is not a readable image.
        """
        pixels: Tensor | None = None
        for start in range(0, len(self), self.block):
            indices = self.rows[start : start + self.block].tolist()
            for offset, (index, cell) in enumerate(zip(indices, self.table[indices][self.column], strict=True)):
                image = self._decode(cell, index)
                if pixels is None:
                    too_big = image.numel() * len(self) > max_bytes
                    if too_big or (max_side is not None and max(image.shape[1:]) > max_side):
                        return self
                    pixels = torch.empty(len(self), *image.shape, dtype=torch.uint8)
                if image.shape != pixels.shape[1:]:
                    return self
                pixels[start + offset] = image
        if pixels is None:
            raise DataError(f"{self.where}: no rows")
        return PixelImages(pixels, self.labels, self.where, self.formats)

    @property
    def fingerprint(self) -> str:
        """Covers every label, and the encoded bytes of up to 256 evenly spaced rows (all bytes would be gigabytes)."""
        digest = hashlib.sha256(self.labels.contiguous().numpy().data)
        step = max(1, len(self) // 256)
        for row in range(0, len(self), step):
            digest.update(_content(self.table[int(self.rows[row])][self.column]))
        return digest.hexdigest()[:16]


def _content(cell: dict[str, Any] | None) -> bytes:
    """The encoded bytes of a cell of an image column."""
    if cell is None or (cell["bytes"] is None and cell["path"] is None):
        raise ValueError("empty cell")
    if cell["bytes"] is not None:
        return cell["bytes"]
    with open(cell["path"], "rb") as file:
        return file.read()


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
