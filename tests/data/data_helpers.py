"""Small image sets made on the spot."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uqbench.data.embedded import Photographs
from uqbench.data.images import Images, PixelImages


def photographs(count: int, size: int = 32) -> Tensor:
    """Real images, uint8 ``[count, 3, size, size]``: some corruptions of noise would be noise."""
    images = Photographs(patch=size, count=count, shrink=2).read("train")
    assert isinstance(images, PixelImages)
    return images.pixels


class InMemory:
    """A source whose image at row i of a split is filled with the value i % 256; labels go round."""

    def __init__(self, train: int = 40, test: int = 20, val: int = 0, num_classes: int = 4, size: int = 6):
        self.sizes = {"train": train, "val": val, "test": test}
        self.splits = {split: split for split, rows in self.sizes.items() if rows}
        self.num_classes, self.size = num_classes, size

    def read(self, split: str) -> Images:
        rows = torch.arange(self.sizes[split])
        offset = {"train": 0, "val": 100, "test": 200}[split]
        pixels = ((rows + offset) % 256).to(torch.uint8)[:, None, None, None].expand(-1, 3, self.size, self.size)
        return PixelImages(pixels.contiguous(), rows % self.num_classes, split)

    def describe(self) -> dict[str, Any]:
        return {"made": "on the spot"}


def encode(image: Tensor, format: str = "PNG") -> bytes:
    """An image file of uint8 ``[3, H, W]`` or greyscale ``[H, W]``."""
    from PIL import Image

    array = image.numpy() if image.ndim == 2 else image.permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(array).save(file, format)
    return file.getvalue()


def write_parquet(
    file: Path, images: list[bytes | None], labels: list[Any], image: str = "image", label: str = "label"
):
    """A parquet file in the hub's form: images as structs of bytes and path."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = [None if content is None else {"bytes": content, "path": None} for content in images]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({image: pa.array(cells, kind), label: labels}), file)
