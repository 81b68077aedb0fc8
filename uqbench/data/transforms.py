"""From uint8 images to a network's input, on the batch's device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class NetworkInput:
    """Converts, resizes and normalises.

    Args:
        size: side of the network's input in pixels.
        mean: subtracted from each colour, for values in [0, 1].
        std: what the colours are then divided by.
    """

    def __init__(self, size: int, mean: list[float], std: list[float]):
        self.size, self.mean, self.std = size, mean, std
        self._constants: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @staticmethod
    def convert(images: Tensor) -> Tensor:
        """uint8 to float32 in [0, 1]."""
        return images.float() / 255

    def resize(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` to ``[B, 3, size, size]``: bilinear, antialiased where it shrinks."""
        if images.shape[-2:] == (self.size, self.size):
            return images
        shrinks = max(images.shape[-2:]) > self.size
        return F.interpolate(images, size=(self.size, self.size), mode="bilinear", antialias=shrinks)

    def normalise(self, images: Tensor) -> Tensor:
        """(images - mean) / std for each colour."""
        device = images.device
        if device not in self._constants:  # copied to the device once: a copy makes the host wait
            mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (self.mean, self.std))
            self._constants[device] = mean, std
        mean, std = self._constants[device]
        return (images - mean) / std
