"""The common corruptions of CIFAR-10-C (Hendrycks & Dietterich 2019, arXiv 1903.12261), generated.

The severity constants are the published ones *for 32x32 images* (``make_cifar_c.py`` of hendrycks/robustness); widths
are in pixels, so on much larger images the blurs and deformations are weaker than those of ImageNet-C.

Seventeen of the nineteen are here. ``frost`` needs photographs of ice that no dependency ships, and ``spatter`` needs
OpenCV's edge detector. The rest follow the published program step by step, with scipy, Pillow and numpy in the place
of OpenCV, scikit-image and ImageMagick: the same distribution, not the same bytes as the official files, whose random
state was not published.

Every image draws from its own stream (seed, corruption, severity, row), so that it is corrupted in the same way
whatever batch it comes in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO

import numpy as np
import torch
from torch import Tensor

from uqbench.data import corruptions_blur as blur
from uqbench.data import corruptions_weather as weather
from uqbench.data.corruptions_blur import Array, Draws
from uqbench.errors import check
from uqbench.seeding import named_seed

# The order of the benchmark: its fifteen, then the four that it keeps for validation.
CIFAR_C = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    *("speckle_noise", "gaussian_blur", "spatter", "saturate"),
)
NOT_GENERATED = {
    "frost": "it needs photographs of frost that no dependency ships",
    "spatter": "it needs OpenCV's edge detector",
}


def gaussian_noise(x: Array, severity: int, draws: Draws) -> Array:
    sigma = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    return x + sigma * np.stack([draw.standard_normal(x.shape[1:]) for draw in draws])


def shot_noise(x: Array, severity: int, draws: Draws) -> Array:
    photons = (500, 250, 100, 75, 50)[severity - 1]
    return np.stack([draw.poisson(image * photons) / photons for image, draw in zip(x, draws, strict=True)])


def impulse_noise(x: Array, severity: int, draws: Draws) -> Array:
    """Salt and pepper in equal parts, each colour of each pixel on its own."""
    amount = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    hit = np.stack([draw.random(x.shape[1:]) for draw in draws]) <= amount
    salt = np.stack([draw.random(x.shape[1:]) for draw in draws]) <= 0.5
    return np.where(hit, salt.astype(np.float64), x)


def speckle_noise(x: Array, severity: int, draws: Draws) -> Array:
    sigma = (0.06, 0.1, 0.12, 0.16, 0.2)[severity - 1]
    return x + sigma * x * np.stack([draw.standard_normal(x.shape[1:]) for draw in draws])


def contrast(x: Array, severity: int, draws: Draws) -> Array:
    """Towards the mean of each colour over the image."""
    mean = x.mean(axis=(1, 2), keepdims=True)
    return mean + (x - mean) * (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]


def brightness(x: Array, severity: int, draws: Draws) -> Array:
    """Raises the V of HSV: with hue and saturation kept, the colours scale with V; black becomes grey."""
    value = x.max(axis=-1, keepdims=True)
    raised = (value + (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]).clip(0, 1)
    return np.where(value > 0, x * raised / np.where(value > 0, value, 1), raised)


def saturate(x: Array, severity: int, draws: Draws) -> Array:
    """Maps the S of HSV to a S + b: with hue and V kept, a colour is V (1 - S k), k in [0, 1] its share of the range.

    A grey pixel has the hue 0 by convention, so that b > 0 turns it reddish, as in the published images.
    """
    factor, shift = ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2))[severity - 1]
    value, span = x.max(axis=-1, keepdims=True), np.ptp(x, axis=-1, keepdims=True)
    share = np.where(span > 0, (value - x) / np.where(span > 0, span, 1), np.array([0.0, 1.0, 1.0]))
    saturation = np.where(value > 0, span / np.where(value > 0, value, 1), 0)
    return value * (1 - (saturation * factor + shift).clip(0, 1) * share)


def jpeg_compression(x: Array, severity: int, draws: Draws) -> Array:
    from PIL import Image

    quality, out = (80, 65, 58, 50, 40)[severity - 1], np.empty_like(x)
    for row, image in enumerate(_bytes(x)):
        file = BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        out[row] = np.asarray(Image.open(file))
    return out / 255


def pixelate(x: Array, severity: int, draws: Draws) -> Array:
    from PIL import Image

    share, (height, width), out = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1], x.shape[1:3], np.empty_like(x)
    for row, image in enumerate(_bytes(x)):
        small = Image.fromarray(image).resize((int(width * share), int(height * share)), Image.Resampling.BOX)
        out[row] = np.asarray(small.resize((width, height), Image.Resampling.BOX))
    return out / 255


def _bytes(x: Array) -> np.ndarray:
    return np.round(x * 255).astype(np.uint8)


CORRUPTIONS: dict[str, Callable[[Array, int, Draws], Array]] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "fog": weather.fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic_transform": weather.elastic_transform,
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
    "speckle_noise": speckle_noise,
    "gaussian_blur": blur.gaussian_blur,
    "saturate": saturate,
}


def check_generated(names: Sequence[str], key: str) -> None:
    """Refuses names, given under the setting ``key``, that are not corruptions or cannot be generated."""
    for name in names:
        why = f" cannot be generated: {NOT_GENERATED[name]}" if name in NOT_GENERATED else " is not a corruption"
        check(name in CORRUPTIONS, f"{key}: '{name}'{why}; can be generated: {', '.join(CORRUPTIONS)}")


def corrupt(images: Tensor, name: str, severity: int, seed: int, index: Tensor) -> Tensor:
    """Corrupts images.

    Args:
        images: uint8 ``[B, 3, H, W]``.
        name: a key of `CORRUPTIONS`.
        severity: 1..5.
        seed: seed of the random corruptions.
        index: each image's row in its set, int64 ``[B]``; with the seed it names the image's random stream.

    Returns:
        uint8 ``[B, 3, H, W]``; values are cut off, not rounded, to whole numbers, as in the published files.

    Raises:
        ConfigError: the corruption is unknown or cannot be generated, or the severity is out of range.
    """
    check_generated([name], "corruption")
    check(1 <= severity <= 5, f"severity={severity} must be in 1..5")
    x = images.permute(0, 2, 3, 1).numpy().astype(np.float64) / 255
    draws = [np.random.default_rng(named_seed(seed, "corruption", name, severity, row)) for row in index.tolist()]
    out = CORRUPTIONS[name](x, severity, draws) if len(x) else x
    # The small number keeps a whole number whole whose last bit was lost in the division by 255.
    whole = np.floor(out.clip(0, 1) * 255 + 1e-4).astype(np.uint8)
    return torch.from_numpy(np.ascontiguousarray(whole.transpose(0, 3, 1, 2)))
