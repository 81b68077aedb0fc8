"""Image augmentation on whole batches, on whatever device they are.

A transform maps float images ``[B, C, H, W]`` in [0, 1] and a `torch.Generator` to float images; each image of the
batch draws its own parameters. The semantics are those of the torchvision transforms of the same name. Geometric
transforms sample the input once, bilinearly, through an affine grid.

Draws are made on the generator's device and then moved, so that a CPU generator gives the same run on every device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from uqbench.errors import check


@runtime_checkable
class Transform(Protocol):
    """What every augmentation of this file is."""

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor: ...


def _uniform(shape: Sequence[int], low: float, high: float, like: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform draws of ``shape`` in [low, high), in the dtype and on the device of ``like``."""
    draws = torch.rand(*shape, generator=generator, device=generator.device)
    return (low + (high - low) * draws).to(like.device, like.dtype)


def _happens(p: float, like: Tensor, generator: torch.Generator) -> Tensor:
    """True with probability ``p`` for each image, ``[B, 1, 1, 1]``; compared in float32, where a draw is never 1."""
    draws = torch.rand(like.shape[0], 1, 1, 1, generator=generator, device=generator.device)
    return (draws < p).to(like.device)


def _affine(images: Tensor, theta: Tensor, size: tuple[int, int], padding_mode: str = "zeros") -> Tensor:
    grid = F.affine_grid(theta, [images.shape[0], images.shape[1], *size], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=padding_mode, align_corners=False)


def _pair(name: str, values: Sequence[float], low: float, high: float) -> tuple[float, float]:
    """A checked (lower, upper) pair of the setting ``name``."""
    check(len(values) == 2 and low <= values[0] <= values[1] <= high, f"{name}={list(values)}: expected two ascending "
          f"numbers in [{low:g}, {high:g}]")  # fmt: skip
    return float(values[0]), float(values[1])


class RandomResizedCrop:
    """Crops a random area and aspect ratio, and resizes it to ``size`` (Inception-style).

    As in torchvision, ten (area, ratio) pairs are drawn and the first that fits into the image is taken; if none fits,
    the largest central crop within the bounds of ``ratio`` is. The corner is uniform over the positions at which
    the crop fits. Unlike there, a box has real coordinates, and shrinking does not antialias: a set whose images are
    much larger than ``size`` is cropped by the loader instead (see `uqbench.data.readers`).

    Args:
        size: output height and width in pixels.
        scale: lower and upper bound of the cropped share of the image's area; default [0.08, 1].
        ratio: lower and upper bound of the crop's width over its height; default [3/4, 4/3]. The ratio is drawn
            uniformly in its logarithm.
    """

    attempts = 10

    def __init__(self, size: int, scale: list[float] | None = None, ratio: list[float] | None = None):
        check(size >= 1, f"RandomResizedCrop: size={size} must be at least 1")
        self.size = size
        self.scale = _pair("RandomResizedCrop: scale", scale or (0.08, 1.0), 1e-6, 1.0)
        self.ratio = _pair("RandomResizedCrop: ratio", ratio or (3 / 4, 4 / 3), 1e-3, 1e3)

    def boxes(self, batch: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Random boxes (top, left, height, width) in pixels, float32 ``[B, 4]``, on the generator's device."""
        like = torch.empty(0, device=generator.device)
        shape = (batch, self.attempts)
        area = _uniform(shape, *self.scale, like, generator) * (height * width)
        ratio = _uniform(shape, math.log(self.ratio[0]), math.log(self.ratio[1]), like, generator).exp()
        box_h, box_w = (area / ratio).sqrt(), (area * ratio).sqrt()
        fits = (box_h <= height * (1 + 1e-6)) & (box_w <= width * (1 + 1e-6))
        first = fits.float().argmax(dim=1, keepdim=True)  # argmax gives the first of equal values
        # The fallback: the largest box whose ratio is within the bounds.
        bounded = min(max(width / height, self.ratio[0]), self.ratio[1])
        whole_h, whole_w = min(height, width / bounded), min(width, height * bounded)
        any_fits = fits.any(dim=1)
        box_h = torch.where(any_fits, box_h.gather(1, first)[:, 0], whole_h).clamp(max=height)
        box_w = torch.where(any_fits, box_w.gather(1, first)[:, 0], whole_w).clamp(max=width)
        place = torch.where(any_fits[:, None], _uniform((batch, 2), 0, 1, like, generator), 0.5)
        return torch.stack([place[:, 0] * (height - box_h), place[:, 1] * (width - box_w), box_h, box_w], dim=1)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        batch, _, height, width = images.shape
        top, left, box_h, box_w = self.boxes(batch, height, width, generator).to(images.device, images.dtype).unbind(1)
        zero = torch.zeros_like(top)
        # Grid coordinates run over [-1, 1]: the scale is the box's share of the side, the shift its centre.
        rows = torch.stack([zero, box_h / height, (2 * top + box_h) / height - 1], dim=1)
        columns = torch.stack([box_w / width, zero, (2 * left + box_w) / width - 1], dim=1)
        theta = torch.stack([columns, rows], dim=1)
        return _affine(images, theta, (self.size, self.size), padding_mode="border")


class RandomCrop:
    """Pads all four sides and crops back to the original size at a random place.

    Args:
        padding: pixels, or, if it is less than 1, a share of the shorter side: 0.125 is the usual 4 pixels of 32
            whatever the network's input is.
        mode: what is padded: ``constant`` zeros, or the image's own reflection (``reflect``).
    """

    def __init__(self, padding: int | float, mode: Literal["constant", "reflect"] = "constant"):
        check(padding >= 0, f"RandomCrop: padding={padding} must not be negative")
        check(padding < 1 or padding == int(padding), f"RandomCrop: padding={padding} must be whole pixels, or below 1")
        check(mode in ("constant", "reflect"), f"RandomCrop: mode={mode!r} must be 'constant' or 'reflect'")
        self.padding, self.mode = padding, mode

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        batch, channels, height, width = images.shape
        border = round(self.padding * min(height, width)) if self.padding < 1 else int(self.padding)
        padded = F.pad(images, [border] * 4, mode=self.mode)
        offset = torch.randint(2 * border + 1, (batch, 2), generator=generator, device=generator.device)
        offset = offset.to(images.device)
        rows = offset[:, :1] + torch.arange(height, device=images.device)
        columns = offset[:, 1:] + torch.arange(width, device=images.device)
        which = torch.arange(batch, device=images.device)[:, None, None, None]
        channel = torch.arange(channels, device=images.device)[None, :, None, None]
        return padded[which, channel, rows[:, None, :, None], columns[:, None, None, :]]


class RandomHorizontalFlip:
    """Mirrors left and right with probability ``p``."""

    axis = -1

    def __init__(self, p: float = 0.5):
        check(0 <= p <= 1, f"{type(self).__name__}: p={p} must be in [0, 1]")
        self.p = p

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return torch.where(_happens(self.p, images, generator), images.flip(self.axis), images)


class RandomVerticalFlip(RandomHorizontalFlip):
    """Mirrors top and bottom with probability ``p``."""

    axis = -2


class RandomRotation:
    """Rotates about the centre, counter-clockwise, by an angle drawn uniformly from ``degrees``; corners become black.

    Args:
        degrees: lower and upper bound of the angle in degrees.
    """

    def __init__(self, degrees: list[float]):
        self.degrees = _pair("RandomRotation: degrees", degrees, -360.0, 360.0)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        height, width = images.shape[-2:]
        angle = torch.deg2rad(_uniform((images.shape[0],), *self.degrees, images, generator))
        cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
        # Grid coordinates are in half-widths and half-heights, so the off-diagonal terms carry the aspect ratio.
        theta = torch.stack(
            [
                torch.stack([cos, -sin * height / width, zero], dim=1),
                torch.stack([sin * width / height, cos, zero], dim=1),
            ],
            dim=1,
        )
        return _affine(images, theta, (height, width))


def _grey(images: Tensor) -> Tensor:
    """ITU-R BT.601 luma ``[B, 1, H, W]``, with the weights of torchvision."""
    weights = images.new_tensor([0.2989, 0.587, 0.114]).view(1, 3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True)


class ColorJitter:
    """Changes brightness, contrast, saturation and hue by random factors, in that order.

    torchvision draws the order too; here it is fixed, because a batch is then four elementwise operations.

    Args:
        brightness: its factor is drawn from [max(0, 1 - x), 1 + x]; 0 leaves it alone.
        contrast: likewise; about the mean of the image's luma.
        saturation: likewise; about each pixel's luma.
        hue: the rotation of the chroma plane is drawn from [-hue, hue] turns. It is done in YIQ space, the linear
            approximation of the hue rotation in HSV, because it needs one matrix product per image.
        p: probability that an image is changed at all.
    """

    def __init__(
        self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0, p: float = 1.0
    ):
        for name, value in {"brightness": brightness, "contrast": contrast, "saturation": saturation}.items():
            check(value >= 0, f"ColorJitter: {name}={value} must not be negative")
        check(0 <= hue <= 0.5, f"ColorJitter: hue={hue} must be in [0, 0.5]")
        check(0 <= p <= 1, f"ColorJitter: p={p} must be in [0, 1]")
        self.brightness, self.contrast, self.saturation, self.hue, self.p = brightness, contrast, saturation, hue, p

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        def factor(strength: float) -> Tensor:
            return _uniform((images.shape[0], 1, 1, 1), max(0.0, 1 - strength), 1 + strength, images, generator)

        out = images
        if self.brightness:
            out = (out * factor(self.brightness)).clamp(0, 1)
        if self.contrast:
            mean = _grey(out).mean(dim=(1, 2, 3), keepdim=True)
            out = (mean + (out - mean) * factor(self.contrast)).clamp(0, 1)
        if self.saturation:
            grey = _grey(out)
            out = (grey + (out - grey) * factor(self.saturation)).clamp(0, 1)
        if self.hue:
            out = self._rotate_hue(out, _uniform((images.shape[0],), -self.hue, self.hue, images, generator))
        return torch.where(_happens(self.p, images, generator), out, images)

    @staticmethod
    def _rotate_hue(images: Tensor, turns: Tensor) -> Tensor:
        # In float32 whatever the images are: the inverse has no half-precision kernel.
        to_yiq = torch.tensor(
            [[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], device=images.device
        )
        angle = 2 * math.pi * turns.float()
        rotation = torch.zeros(len(turns), 3, 3, device=images.device)
        rotation[:, 0, 0] = 1
        rotation[:, 1, 1] = rotation[:, 2, 2] = angle.cos()
        rotation[:, 1, 2], rotation[:, 2, 1] = -angle.sin(), angle.sin()
        matrix = (torch.linalg.inv(to_yiq) @ rotation @ to_yiq).to(images.dtype)
        return torch.einsum("bij,bjhw->bihw", matrix, images).clamp(0, 1)


class RandomGrayscale:
    """Replaces the colours by their luma with probability ``p``."""

    def __init__(self, p: float = 0.1):
        check(0 <= p <= 1, f"RandomGrayscale: p={p} must be in [0, 1]")
        self.p = p

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return torch.where(_happens(self.p, images, generator), _grey(images).expand_as(images), images)


class Compose:
    """Applies transforms one after the other, each drawing from the same stream."""

    def __init__(self, *transforms: Transform):
        self.transforms = transforms

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        for transform in self.transforms:
            images = transform(images, generator)
        return images
