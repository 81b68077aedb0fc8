"""The blurs of CIFAR-10-C, and the linear maps that snow shares with them.

A corruption maps images ``x``, float64 ``[B, H, W, 3]`` in [0, 1], a severity 1..5 and one random generator per image
to images of the same shape. No row depends on another, bit for bit. Constants: see `uqbench.data.corruptions`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Draws = list[np.random.Generator]


def gaussian(x: Array, sigma: float) -> Array:
    """Gaussian blur over height and width, edges repeated, cut at 4 sigma (scikit-image's conventions)."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(x, sigma=(0, sigma, sigma, 0), mode="nearest", truncate=4.0)


def gaussian_blur(x: Array, severity: int, draws: Draws) -> Array:
    return gaussian(x, (0.4, 0.6, 0.7, 0.8, 1.0)[severity - 1])


def disk(radius: float, alias: float) -> Array:
    """A uniform disk, smoothed by a 3x3 Gaussian of standard deviation ``alias``; sums to 1."""
    from scipy.ndimage import convolve

    reach = int(radius) + 1  # one pixel of room for the smoothing
    offset = np.arange(-reach, reach + 1)
    kernel = (offset[:, None] ** 2 + offset[None, :] ** 2 <= radius**2).astype(np.float64)
    taps = np.exp(-(np.array([-1.0, 0.0, 1.0]) ** 2) / (2 * alias**2))
    taps /= taps.sum()
    return convolve(kernel / kernel.sum(), np.outer(taps, taps), mode="constant")


def defocus_blur(x: Array, severity: int, draws: Draws) -> Array:
    from scipy.ndimage import correlate

    kernel = disk(*((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))[severity - 1])
    return correlate(x, kernel[None, :, :, None], mode="mirror")


def glass_blur(x: Array, severity: int, draws: Draws) -> Array:
    """Blur, displace each pixel by up to ``delta``, blur.

    The published loop means to swap neighbouring pixels, but its assignment works on views of one array, so that the
    neighbour's colour is *copied*. The published images are what that loop made; this does the same.
    """
    sigma, delta, rounds = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))[severity - 1]
    height, width = x.shape[1:3]
    x = np.floor(gaussian(x, sigma) * 255 + 1e-4)
    shape = (rounds, height - 2 * delta, width - 2 * delta, 2)
    steps = np.stack([draw.integers(-delta, delta, size=shape) for draw in draws])
    which = np.arange(len(x))
    for turn in range(rounds):
        for i, row in enumerate(range(height - delta, delta, -1)):
            for j, column in enumerate(range(width - delta, delta, -1)):
                step = steps[:, turn, i, j]
                x[:, row, column] = x[which, row + step[:, 1], column + step[:, 0]]
    return gaussian(x / 255, sigma)


def along(x: Array, radius: int, sigma: float, angles: Array) -> Array:
    """ImageMagick's motion blur: a one-sided Gaussian of ``2 radius + 1`` taps along an angle, edges repeated.

    Args:
        x: ``[B, H, W, C]`` in [0, 1].
        radius: reach in pixels.
        sigma: standard deviation in pixels.
        angles: one direction per image in degrees, ``[B]``.

    Returns:
        The images, rounded to 8 bits as ImageMagick writes them.
    """
    height, width = x.shape[1:3]
    taps = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    taps /= taps.sum()
    cos, sin = np.cos(np.deg2rad(angles)), np.sin(np.deg2rad(angles))
    which = np.arange(len(x))[:, None, None]
    out = np.zeros_like(x)
    for i, tap in enumerate(taps):
        across = np.ceil(i * cos - 0.5).astype(int)[:, None] + np.arange(width)
        down = np.ceil(i * sin - 0.5).astype(int)[:, None] + np.arange(height)
        out += tap * x[which, down.clip(0, height - 1)[:, :, None], across.clip(0, width - 1)[:, None, :]]
    return np.round(out * 255) / 255


def motion_blur(x: Array, severity: int, draws: Draws) -> Array:
    radius, sigma = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))[severity - 1]
    return along(x, radius, sigma, np.array([draw.uniform(-45, 45) for draw in draws]))


def zoom_matrix(size: int, factor: float) -> Array:
    """The map ``[size, size]`` that zooms one axis about its centre: crop, linear interpolation, trim.

    The crop has ceil(size / factor) pixels, is resized to round(crop * factor) with its end points kept, and trimmed
    to ``size`` in the middle.
    """
    crop = int(np.ceil(size / factor))
    top, resized = (size - crop) // 2, round(crop * factor)
    trim = (resized - size) // 2
    place = (np.arange(size) + trim) * (crop - 1) / max(resized - 1, 1)
    low = np.floor(place).astype(int).clip(0, crop - 1)
    share = place - low
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size), top + low), 1 - share)
    np.add.at(matrix, (np.arange(size), top + (low + 1).clip(max=crop - 1)), share)
    return matrix


def zoom(x: Array, factor: float) -> Array:
    """Zooms images ``[B, H, W, C]`` about their centre."""
    down, across = zoom_matrix(x.shape[1], factor), zoom_matrix(x.shape[2], factor)
    channels = x.transpose(0, 3, 1, 2)
    return (down @ channels @ across.T).transpose(0, 2, 3, 1)


def zoom_blur(x: Array, severity: int, draws: Draws) -> Array:
    # Rounding makes numpy's arange end at the named factor, and so did the published program.
    factors = np.arange(1, (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1], 0.01)
    return np.sum([x, *(zoom(x, float(factor)) for factor in factors)], axis=0) / (len(factors) + 1)
