"""What is read for a batch of rows: indexed in memory, or decoded and cropped row by row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from uqbench.data.augment import RandomResizedCrop
from uqbench.data.images import Images, PixelImages
from uqbench.data.loaders import BatchRows
from uqbench.seeding import generator


def fit(images: Tensor, size: int, resize: int | None) -> Tensor:
    """Evaluation geometry on uint8 ``[..., 3, H, W]``: to ``[..., 3, size, size]``, bilinear with antialiasing.

    Args:
        images: the images.
        size: side of the result in pixels.
        resize: None resizes both sides to ``size``; otherwise the short side is resized to this and the centre cropped.
    """
    from torchvision.transforms.v2 import functional as tv

    if resize is None:
        return tv.resize(images, [size, size], antialias=True)
    return tv.center_crop(tv.resize(images, [resize], antialias=True), [size, size])


@dataclass
class EvalReader:
    """Reads the images of a batch for evaluation, uint8 ``[B, 3, H, W]``.

    Images in memory keep their resolution where they are only resized, which the device does faster; all others come
    ready at ``size``. A corruption is applied at the resolution of the images in memory, or to the decoded,
    resized images.

    Attributes:
        images: where the rows are.
        size: side of the network's input.
        resize: see `fit`.
        corrupt: maps (images, rows) to corrupted images.
    """

    images: Images
    size: int
    resize: int | None = None
    corrupt: Callable[[Tensor, Tensor], Tensor] | None = None

    def __call__(self, batch: BatchRows) -> Tensor:
        in_memory = isinstance(self.images, PixelImages)
        if isinstance(self.images, PixelImages):
            read = self.images.pixels[batch.index]
        else:
            read = torch.stack([fit(self.images.decode(row), self.size, self.resize) for row in batch.index.tolist()])
        if self.corrupt is not None:
            read = self.corrupt(read, batch.index)
        return fit(read, self.size, self.resize) if in_memory and self.resize is not None else read


@dataclass
class TrainReader:
    """Reads the images of a batch for training, uint8 ``[B, 3, H, W]``.

    Images in memory come as they are: they are augmented on the device. Others are cropped here, each with parameters
    from the stream (seed, stream[, "member", m], "crop", epoch, row), so that they do not depend on the workers.

    Attributes:
        images: where the rows are.
        size: side of the network's input.
        resize: see `fit`; used where there is no ``crop``.
        crop: the random crop that the augmentation starts with, if it does.
        seed: the run's seed.
        stream: what is trained.
    """

    images: Images
    size: int
    resize: int | None
    crop: RandomResizedCrop | None
    seed: int
    stream: str

    def __call__(self, batch: BatchRows) -> Tensor:
        if isinstance(self.images, PixelImages):
            return self.images.pixels[batch.index]
        per_member = len(batch.index) // (batch.members or 1)
        return torch.stack(
            [
                self._crop(row, batch.epoch, () if batch.members is None else ("member", position // per_member))
                for position, row in enumerate(batch.index.tolist())
            ]
        )

    def _crop(self, row: int, epoch: int, member: tuple[str | int, ...]) -> Tensor:
        image = self.images.decode(row)
        if self.crop is None:
            return fit(image, self.size, self.resize)
        from torchvision.transforms.v2 import functional as tv

        height, width = image.shape[1:]
        draws = generator(self.seed, self.stream, *member, "crop", epoch, row)
        top, left, box_h, box_w = self.crop.boxes(1, height, width, draws)[0].round().int().tolist()
        box_h, box_w = max(1, min(box_h, height - top)), max(1, min(box_w, width - left))
        size = [self.crop.size, self.crop.size]
        return tv.resized_crop(image, min(top, height - 1), min(left, width - 1), box_h, box_w, size, antialias=True)
