"""Fog, snow and elastic deformation of CIFAR-10-C: the corruptions that draw a random field per image.

Same signature as in `uqbench.data.corruptions_blur`. Constants: see `uqbench.data.corruptions`.
"""

from __future__ import annotations

import numpy as np

from uqbench.data.corruptions_blur import Array, Draws, along, zoom


def plasma(size: int, decay: float, draws: Draws) -> Array:
    """Diamond-square height maps on a torus, ``[B, size, size]``, each scaled to [0, 1].

    Args:
        size: side, a power of two.
        decay: by what the amplitude is divided when the grid is halved; small is rough.
        draws: one generator per map.
    """
    field = np.zeros((len(draws), size, size))
    step, amplitude = size, 100.0

    def place(rows: slice, columns: slice, around: Array) -> None:
        """Sets points to the mean of four neighbours plus noise, whose amplitude enters squared, as published."""
        noise = np.stack([draw.uniform(-amplitude, amplitude, around.shape[1:]) for draw in draws])
        field[:, rows, columns] = around / 4 + amplitude * noise

    while step >= 2:
        corner, middle = slice(0, size, step), slice(step // 2, size, step)
        corners = field[:, corner, corner]
        pairs = corners + np.roll(corners, -1, axis=1)
        place(middle, middle, pairs + np.roll(pairs, -1, axis=2))
        centres = field[:, middle, middle]
        place(corner, middle, centres + np.roll(centres, 1, axis=1) + corners + np.roll(corners, -1, axis=2))
        place(middle, corner, centres + np.roll(centres, 1, axis=2) + corners + np.roll(corners, -1, axis=1))
        step, amplitude = step // 2, amplitude / decay
    field -= field.min(axis=(1, 2), keepdims=True)
    return field / field.max(axis=(1, 2), keepdims=True)


def fog(x: Array, severity: int, draws: Draws) -> Array:
    density, decay = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))[severity - 1]
    height, width = x.shape[1:3]
    size = max(32, 1 << (max(height, width) - 1).bit_length())
    brightest = x.max(axis=(1, 2, 3), keepdims=True)
    fogged = x + density * plasma(size, decay, draws)[:, :height, :width, None]
    return fogged * brightest / (brightest + density)


def snow(x: Array, severity: int, draws: Draws) -> Array:
    mean, spread, factor, threshold, radius, sigma, mix = (
        (0.1, 0.2, 1.0, 0.6, 8, 3.0, 0.95),
        (0.1, 0.2, 1.0, 0.5, 10, 4.0, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4.0, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6.0, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12.0, 0.8),
    )[severity - 1]
    flakes = np.stack([draw.normal(mean, spread, (*x.shape[1:3], 1)) for draw in draws])
    flakes = zoom(flakes, factor)
    flakes = np.floor(np.where(flakes < threshold, 0, flakes).clip(0, 1) * 255) / 255
    flakes = along(flakes, radius, sigma, np.array([draw.uniform(-135, -45) for draw in draws]))
    luma = x @ np.array([0.299, 0.587, 0.114])
    whitened = mix * x + (1 - mix) * np.maximum(x, 1.5 * luma[..., None] + 0.5)
    return whitened + flakes + np.rot90(flakes, 2, axes=(1, 2))


def elastic_transform(x: Array, severity: int, draws: Draws) -> Array:
    """A random affine map, then a smooth random displacement, each interpolated linearly."""
    from scipy.ndimage import gaussian_filter, map_coordinates

    # Displacement in pixels, its smoothness in pixels, and the reach of the affine map's random corners in pixels.
    strength, sigma, reach = (
        (0.0, 0.0, 2.56),
        (1.6, 6.4, 2.24),
        (2.56, 1.92, 1.92),
        (3.2, 1.28, 1.6),
        (3.2, 0.96, 0.96),
    )[severity - 1]
    height, width = x.shape[1:3]
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij")).astype(np.float64)
    middle, arm = np.array([width // 2, height // 2]), min(height, width) // 3
    corners = middle + arm * np.array([[1, 1], [1, -1], [-1, -1]])  # (x, y), where the affine map takes three points
    out = np.empty_like(x)
    for row, draw in enumerate(draws):
        moved = corners + draw.uniform(-reach, reach, (3, 2))
        # Where each output pixel comes from: the affine map that takes `moved` to `corners`.
        back = np.linalg.solve(np.column_stack([moved, np.ones(3)]), corners.astype(np.float64))
        source = np.stack([grid[1], grid[0], np.ones((height, width))], axis=-1) @ back
        bent = [map_coordinates(x[row, :, :, c], source[..., ::-1].transpose(2, 0, 1), order=1, mode="mirror")
                for c in range(3)]  # fmt: skip
        if strength:
            smooth = [gaussian_filter(draw.uniform(-1, 1, (height, width)), sigma, mode="reflect", truncate=3.0)
                      for _ in range(2)]  # fmt: skip
            place = grid + strength * np.stack([smooth[1], smooth[0]])  # drawn for x first, then for y
            bent = [map_coordinates(channel, place, order=1, mode="reflect") for channel in bent]
        out[row] = np.stack(bent, axis=-1)
    return out
