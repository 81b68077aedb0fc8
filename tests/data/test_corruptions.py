"""The corruptions against their definitions, and each row's independence of its batch."""

import colorsys

import numpy as np
import pytest
import torch
from data_helpers import photographs
from scipy import ndimage

from uqbench.data import corruptions_blur as blur
from uqbench.data import corruptions_weather as weather
from uqbench.data.corruptions import CIFAR_C, CORRUPTIONS, NOT_GENERATED, brightness, corrupt, saturate
from uqbench.errors import ConfigError

ROWS = torch.arange(24) * 7


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return photographs(24)


def floats(images: torch.Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).numpy() / 255.0


def draws(count: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, i]) for i in range(count)]


def test_seventeen_of_nineteen():
    assert len(CIFAR_C) == 19 and len(CORRUPTIONS) == 17
    assert set(CORRUPTIONS) | set(NOT_GENERATED) == set(CIFAR_C) and not set(CORRUPTIONS) & set(NOT_GENERATED)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_row_is_corrupted_alike_in_any_batch_in_any_order(name, images):
    for severity in (1, 5):
        whole = corrupt(images, name, severity, 0, ROWS)
        assert whole.dtype == torch.uint8 and whole.shape == images.shape
        assert not torch.equal(whole, images)
        some = torch.tensor([5, 0, 17])
        assert torch.equal(corrupt(images[some], name, severity, 0, ROWS[some]), whole[some])
    assert corrupt(images[:0], name, 1, 0, ROWS[:0]).shape == (0, 3, 32, 32)


RANDOM = {"gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "glass_blur", "motion_blur", "snow", "fog",
          "elastic_transform"}  # fmt: skip


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_what_is_random_differs_between_rows_and_seeds(name, images):
    same = images[:1].expand(4, -1, -1, -1).contiguous()
    out = corrupt(same, name, 3, 0, torch.arange(4))
    other = corrupt(same, name, 3, 1, torch.arange(4))
    assert (name in RANDOM) == (not torch.equal(out[0], out[1])) == (not torch.equal(out, other))


# Elastic deformation and saturation are not ordered by their constants, glass blur not by its first three.
ORDERED = [n for n in CORRUPTIONS if n not in ("elastic_transform", "saturate", "glass_blur", "motion_blur")]


@pytest.mark.parametrize("name", ORDERED)
def test_severity_raises_the_squared_error(name, images):
    clean = images.float()
    errors = [float((corrupt(images, name, s, 0, ROWS).float() - clean).square().mean()) for s in (1, 2, 3, 4, 5)]
    assert errors == sorted(errors) and errors[4] > 1.5 * errors[0]


def test_noise_has_its_published_strength():
    grey = torch.full((60, 3, 32, 32), 128, dtype=torch.uint8)
    x, rows = 128 / 255, torch.arange(60)
    for severity, sigma in enumerate((0.04, 0.06, 0.08, 0.09, 0.10), start=1):
        noise = corrupt(grey, "gaussian_noise", severity, 0, rows).double() / 255 - x
        assert float(noise.std()) == pytest.approx(sigma, rel=0.01)
        assert float(noise.mean()) == pytest.approx(-0.5 / 255, abs=5e-4)  # cut off, not rounded
    for severity, photons in enumerate((500, 250, 100, 75, 50), start=1):
        noise = corrupt(grey, "shot_noise", severity, 0, rows).double() / 255 - x
        assert float(noise.std()) == pytest.approx((x / photons) ** 0.5, rel=0.02)
    for severity, sigma in enumerate((0.06, 0.1, 0.12, 0.16, 0.2), start=1):
        noise = corrupt(grey, "speckle_noise", severity, 0, rows).double() / 255 - x
        assert float(noise.std()) == pytest.approx(sigma * x, rel=0.02)
    for severity, amount in enumerate((0.01, 0.02, 0.03, 0.05, 0.07), start=1):
        noisy = corrupt(grey, "impulse_noise", severity, 0, rows)
        assert float((noisy != 128).float().mean()) == pytest.approx(amount, rel=0.05)
        assert float((noisy == 255).float().mean()) == pytest.approx(amount / 2, rel=0.07)
        assert set(noisy.unique().tolist()) == {0, 128, 255}


def test_brightness_and_saturation_against_hsv(images):
    x = floats(images[:2])
    x[0, 0, 0], x[0, 0, 1] = 0.0, 0.5  # black, and grey: the cases without a hue
    for severity, shift in enumerate((0.05, 0.1, 0.15, 0.2, 0.3), start=1):
        out = brightness(x, severity, [])
        for got, rgb in zip(out.reshape(-1, 3)[::7], x.reshape(-1, 3)[::7], strict=True):
            h, s, v = colorsys.rgb_to_hsv(*rgb)
            np.testing.assert_allclose(got, colorsys.hsv_to_rgb(h, s, min(v + shift, 1)), atol=1e-12)
    for severity, (factor, shift) in enumerate(((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)), start=1):
        out = saturate(x, severity, [])
        for got, rgb in zip(out.reshape(-1, 3), x.reshape(-1, 3), strict=True):
            h, s, v = colorsys.rgb_to_hsv(*rgb)
            np.testing.assert_allclose(got, colorsys.hsv_to_rgb(h, min(s * factor + shift, 1), v), atol=1e-12)


def test_contrast_keeps_the_mean_and_scales_the_rest(images):
    x = floats(images)
    out = CORRUPTIONS["contrast"](x, 5, [])
    np.testing.assert_allclose(out.mean(axis=(1, 2)), x.mean(axis=(1, 2)), atol=1e-12)
    np.testing.assert_allclose(out.std(axis=(1, 2)), 0.15 * x.std(axis=(1, 2)), atol=1e-12)


def test_defocus_kernels_by_hand():
    small = blur.disk(0.5, 0.6)  # one pixel, smoothed
    edge = np.exp(-1 / (2 * 0.36))
    taps = np.array([edge, 1, edge]) / (1 + 2 * edge)
    np.testing.assert_allclose(small, np.outer(taps, taps))
    for radius, pixels in ((1.0, 5), (1.5, 9)):
        kernel = blur.disk(radius, 0.1)  # a width of 0.1 hardly smooths
        assert (kernel > 0.01).sum() == pixels and kernel.sum() == pytest.approx(1)
        assert kernel.max() == pytest.approx(1 / pixels, rel=1e-3)


def test_motion_blur_of_a_point_is_its_one_sided_kernel():
    x = np.zeros((2, 21, 21, 3))
    x[:, 10, 10] = 1
    out = blur.along(x, 3, 1.0, np.array([0.0, 90.0]))
    taps = np.exp(-(np.arange(7) ** 2) / 2)
    taps /= taps.sum()
    # The pixel that lies i steps back along the angle sees the point with the i-th weight.
    for i in range(7):
        assert out[0, 10, 10 - i, 0] == pytest.approx(taps[i], abs=0.5 / 255)
        assert out[1, 10 - i, 10, 0] == pytest.approx(taps[i], abs=0.5 / 255)
    assert np.count_nonzero(out[0, :, :, 0]) == sum(tap * 255 >= 0.5 for tap in taps)
    flat = np.full((1, 9, 9, 3), 0.4)
    np.testing.assert_allclose(blur.along(flat, 6, 2.0, np.array([30.0])), 102 / 255)


@pytest.mark.parametrize("factor", [1.0, 1.03, 1.11, 1.26, 1.75, 2.25])
def test_zoom_is_scipys_zoom_of_the_central_crop(factor):
    x = np.random.default_rng(0).random((32, 32, 3))
    crop = int(np.ceil(32 / factor))
    top = (32 - crop) // 2
    zoomed = ndimage.zoom(x[top : top + crop, top : top + crop], (factor, factor, 1), order=1, mode="nearest")
    trim = (zoomed.shape[0] - 32) // 2
    np.testing.assert_allclose(blur.zoom(x[None], factor)[0], zoomed[trim : trim + 32, trim : trim + 32], atol=1e-9)


def test_glass_blur_copies_neighbours_as_the_published_loop_does():
    """The loop of the published program on one image, with the same displacements."""
    x = floats(photographs(1))
    sigma, delta, rounds = 0.4, 1, 2
    expected = np.uint8(ndimage.gaussian_filter(x[0], (sigma, sigma, 0), mode="nearest") * 255 + 1e-4)
    steps = draws(1)[0].integers(-delta, delta, size=(rounds, 30, 30, 2))
    for turn in range(rounds):
        for i, h in enumerate(range(31, 1, -1)):
            for j, w in enumerate(range(31, 1, -1)):
                dx, dy = steps[turn, i, j]
                expected[h, w], expected[h + dy, w + dx] = expected[h + dy, w + dx], expected[h, w]
    expected = ndimage.gaussian_filter(expected / 255.0, (sigma, sigma, 0), mode="nearest")
    np.testing.assert_allclose(blur.glass_blur(x, 5, draws(1))[0], expected, atol=1e-12)


def test_plasma_fills_the_map_and_is_rougher_with_a_smaller_decay():
    smooth, rough = (weather.plasma(32, decay, draws(40)) for decay in (3.0, 1.5))
    for field in (smooth, rough):
        assert field.shape == (40, 32, 32)
        np.testing.assert_allclose(field.min(axis=(1, 2)), 0)
        np.testing.assert_allclose(field.max(axis=(1, 2)), 1)
    step = [np.abs(np.diff(field, axis=1)).mean() for field in (smooth, rough)]
    assert step[1] > 1.8 * step[0]


def test_fog_follows_its_formula(images):
    x = floats(images)
    field = weather.plasma(32, 3.0, draws(24))[..., None]
    brightest = x.max(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(weather.fog(x, 2, draws(24)), (x + 0.5 * field) * brightest / (brightest + 0.5))


def test_elastic_deformation_moves_a_ramp_by_a_few_pixels(monkeypatch):
    """On coordinates as colours the output *is* the source position, so that the map can be read off."""
    rows, columns = np.meshgrid(np.arange(32), np.arange(32), indexing="ij")
    ramp = np.stack([rows, columns, np.ones_like(rows)], axis=-1)[None] / 32.0
    for severity, reach in enumerate((2.56, 2.24, 1.92, 1.6, 0.96), start=1):
        out = weather.elastic_transform(ramp.repeat(8, 0), severity, draws(8)) * 32
        centre = out[:, 8:24, 8:24]
        moved = np.stack([centre[..., 0] - rows[8:24, 8:24], centre[..., 1] - columns[8:24, 8:24]])
        assert 0.05 < np.abs(moved).mean() < 3 * reach + 1
    # Without displacement the map is affine: second differences vanish.
    affine = weather.elastic_transform(ramp, 1, draws(1)) * 32
    assert np.abs(np.diff(affine[0, 10:22, 10:22, :2], n=2, axis=0)).max() < 1e-9

    class Still:
        def uniform(self, low, high, shape):
            return np.zeros(shape)

    np.testing.assert_allclose(weather.elastic_transform(ramp, 5, [Still()]), ramp, atol=1e-9)  # type: ignore[list-item]


def test_snow_lightens_and_is_symmetric_in_its_flakes():
    black = np.zeros((6, 32, 32, 3))
    out = weather.snow(black, 3, draws(6))
    flakes = out - (1 - 0.9) * 0.5
    assert flakes.min() >= -1e-12 and flakes.mean() > 0.01
    np.testing.assert_allclose(flakes, np.rot90(flakes, 2, axes=(1, 2)), atol=1e-12)


def test_pixelate_and_jpeg_by_hand():
    from PIL import Image

    image = photographs(1)
    array = image[0].permute(1, 2, 0).numpy()
    small = Image.fromarray(array).resize((20, 20), Image.Resampling.BOX)  # int(32 * 0.65)
    expected = np.asarray(small.resize((32, 32), Image.Resampling.BOX))
    assert np.array_equal(corrupt(image, "pixelate", 5, 0, torch.tensor([0]))[0].permute(1, 2, 0).numpy(), expected)
    oblong = photographs(1, size=40)[:, :, :32]
    assert corrupt(oblong, "jpeg_compression", 5, 0, torch.tensor([0])).shape == (1, 3, 32, 40)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_oblong_images_keep_their_shape(name):
    oblong = photographs(2, size=48)[:, :, :36]
    assert corrupt(oblong, name, 4, 0, torch.arange(2)).shape == oblong.shape


@pytest.mark.parametrize("name", ["frost", "spatter", "gausian_noise"])
def test_what_cannot_be_generated_is_refused_with_what_can(name):
    with pytest.raises(ConfigError) as error:
        corrupt(photographs(1), name, 1, 0, torch.tensor([0]))
    assert name in str(error.value) and all(known in str(error.value) for known in CORRUPTIONS)
    with pytest.raises(ConfigError, match="severity=6"):
        corrupt(photographs(1), "fog", 6, 0, torch.tensor([0]))
