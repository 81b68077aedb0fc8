"""Real images that scikit-learn ships: handwritten digits, and patches of its two sample photographs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from uqbench.data.images import Images, PixelImages
from uqbench.errors import check
from uqbench.seeding import generator


class Digits:
    """The 1,797 handwritten digits of scikit-learn, 8x8 pixels (UCI Optical Recognition of Handwritten Digits, test).

    Its grey levels 0..16 become 0..255. It has one split, so `VisionData.test_fraction` cuts the test rows.
    """

    def __init__(self) -> None:
        self.splits, self.num_classes = {"train": "all"}, 10

    def describe(self) -> dict[str, Any]:
        return {"embedded": "sklearn.datasets.load_digits"}

    def read(self, split: str) -> Images:
        """All rows, uint8 ``[1797, 3, 8, 8]``."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        grey = torch.from_numpy(digits.images).mul(255 / 16).round().to(torch.uint8)
        pixels = grey[:, None].expand(-1, 3, -1, -1).contiguous()
        return PixelImages(pixels, torch.from_numpy(digits.target).to(torch.int64), "scikit-learn's digits")


class Photographs:
    """Square patches of scikit-learn's two sample photographs (a temple and a flower), at random places.

    A set without classes of its own, for out-of-distribution detection; its labels say which photograph it is.

    Args:
        patch: side of a patch in pixels. Taken equal to that of the images it is compared with, so that a detector
            cannot go by the resolution.
        count: number of patches, half of them from each photograph.
        shrink: a patch is the mean over ``shrink`` x ``shrink`` pixels of a window of the photograph: at 1, a patch of
            8 pixels is nearly one colour.
        greyscale: whether the colours are replaced by their luma.
        seed: seed of the places.
    """

    def __init__(self, patch: int = 32, count: int = 1000, shrink: int = 2, greyscale: bool = False, seed: int = 0):
        check(1 <= patch * shrink <= 427, f"photographs: patch={patch} x shrink={shrink} must be at most 427 pixels")
        check(shrink >= 1, f"photographs: shrink={shrink} must be at least 1")
        check(1 <= count <= 10_000, f"photographs: count={count} must be in [1, 10000]")
        self.patch, self.count, self.shrink, self.greyscale, self.seed = patch, count, shrink, greyscale, seed
        self.splits, self.num_classes = {"train": "all"}, 2

    def describe(self) -> dict[str, Any]:
        options = {"patch": self.patch, "shrink": self.shrink, "greyscale": self.greyscale, "seed": self.seed}
        return {"embedded": "sklearn.datasets.load_sample_images", **options}

    def read(self, split: str) -> Images:
        """All patches, uint8 ``[count, 3, patch, patch]``, alternating between the photographs."""
        from sklearn.datasets import load_sample_images

        labels = torch.arange(self.count) % 2
        pixels = torch.empty(self.count, 3, self.patch, self.patch, dtype=torch.uint8)
        for which, photograph in enumerate(load_sample_images().images):
            image = torch.tensor(photograph).permute(2, 0, 1).float()
            if which < self.count:
                pixels[labels == which] = self._patches(image, int((labels == which).sum()), which)
        return PixelImages(pixels, labels, "patches of scikit-learn's sample photographs")

    def _patches(self, image: Tensor, count: int, which: int) -> Tensor:
        """``count`` patches of an image ``[3, H, W]`` in 0..255, at places drawn with replacement."""
        if self.greyscale:
            weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
            image = (image * weights).sum(0, keepdim=True).expand(3, -1, -1)
        window = self.patch * self.shrink
        draws = generator(self.seed, "photographs", which)
        tops = torch.randint(image.shape[1] - window + 1, (count,), generator=draws).tolist()
        lefts = torch.randint(image.shape[2] - window + 1, (count,), generator=draws).tolist()
        windows = [image[:, y : y + window, x : x + window] for y, x in zip(tops, lefts, strict=True)]
        shrunk = torch.nn.functional.avg_pool2d(torch.stack(windows), self.shrink)
        return shrunk.round().to(torch.uint8)
