"""Augmentations against torchvision with forced parameters, index arithmetic and closed forms."""

import math
from collections import Counter

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from uqbench.data.augment import (
    ColorJitter,
    Compose,
    RandomCrop,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomRotation,
    RandomVerticalFlip,
    _grey,
)
from uqbench.errors import ConfigError


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(5, 3, 12, 16, generator=stream(1))


ALL = [
    RandomResizedCrop(10),
    RandomCrop(3),
    RandomCrop(0.25, mode="reflect"),
    RandomHorizontalFlip(),
    RandomVerticalFlip(),
    RandomRotation([-30.0, 30.0]),
    ColorJitter(0.4, 0.4, 0.4, 0.1),
    RandomGrayscale(0.5),
]


@pytest.mark.parametrize("transform", ALL, ids=lambda t: type(t).__name__)
def test_draws_are_a_function_of_the_stream_and_differ_between_images(transform, images):
    first, again = transform(images, stream(3)), transform(images, stream(3))
    assert torch.equal(first, again)
    same = images[:1].expand(64, -1, -1, -1)
    out = transform(same, stream(3))
    assert len({tuple(image.flatten().tolist()) for image in out}) > 1
    assert out.min() >= 0 and out.max() <= 1


@pytest.mark.parametrize(
    "transform",
    [
        RandomCrop(0),
        RandomHorizontalFlip(0.0),
        RandomVerticalFlip(0.0),
        RandomRotation([0.0, 0.0]),
        ColorJitter(),
        ColorJitter(0.5, 0.5, 0.5, 0.5, p=0.0),
        RandomGrayscale(0.0),
        Compose(),
    ],
    ids=lambda t: type(t).__name__,
)
def test_identity_cases(transform, images):
    torch.testing.assert_close(transform(images, stream()), images, atol=1e-6, rtol=0)


def test_certain_flips_are_torchvisions(images):
    assert torch.equal(RandomHorizontalFlip(1.0)(images, stream()), tv.horizontal_flip(images))
    assert torch.equal(RandomVerticalFlip(1.0)(images, stream()), tv.vertical_flip(images))
    # In half precision too, where a draw just below 1 would round to 1.
    many = torch.arange(2.0).expand(20_000, 1, 1, 2).bfloat16()
    assert torch.equal(RandomHorizontalFlip(1.0)(many, stream()), many.flip(-1))


def test_a_flip_is_all_or_nothing_and_happens_with_its_probability():
    images = torch.arange(4.0).view(1, 1, 1, 4).expand(8000, 1, 1, 4)
    out = RandomHorizontalFlip(0.3)(images, stream())
    flipped = (out == images.flip(-1)).all(dim=(1, 2, 3))
    assert torch.equal(flipped, ~(out == images).all(dim=(1, 2, 3)))
    assert abs(flipped.float().mean() - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 8000)


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_crop_is_a_window_of_the_padded_image_uniform_over_positions(mode):
    image = torch.arange(1.0, 31.0).view(1, 1, 5, 6)
    padded = torch.nn.functional.pad(image, [2] * 4, mode=mode)
    windows = {tuple(padded[0, 0, y : y + 5, x : x + 6].flatten().tolist()): (y, x) for y in range(5) for x in range(5)}
    assert len(windows) == 25
    out = RandomCrop(2, mode)(image.expand(10_000, 1, 5, 6), stream())
    counts = Counter(windows[tuple(window.flatten().tolist())] for window in out)
    chi2 = sum((counts[key] - 400) ** 2 / 400 for key in windows.values())
    assert chi2 < 51.2  # the 0.1 % quantile of chi-squared with 24 degrees of freedom


def test_crop_padding_as_a_share_of_the_side():
    images = torch.rand(9, 3, 32, 32, generator=stream())
    assert torch.equal(RandomCrop(0.125)(images, stream(5)), RandomCrop(4)(images, stream(5)))


@pytest.mark.parametrize("angle", [90.0, 180.0, -90.0])
def test_right_angles_are_exact(angle):
    images = torch.rand(3, 3, 9, 9, generator=stream())
    out = RandomRotation([angle, angle])(images, stream())
    torch.testing.assert_close(out, torch.rot90(images, int(angle // 90), dims=(-2, -1)), atol=1e-5, rtol=0)
    torch.testing.assert_close(out, tv.rotate(images, angle), atol=1e-5, rtol=0)


def test_any_angle_on_an_oblong_image_is_torchvisions(images):
    out = RandomRotation([23.0, 23.0])(images, stream())
    expected = tv.rotate(images, 23.0, interpolation=tv.InterpolationMode.BILINEAR)
    # At the rim torchvision fades a mask where this fades the pixels: the same with black corners.
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=0)


def test_colour_factors_are_torchvisions(images):
    """The draws are replayed to know the factor of each image."""
    for setting, adjust in {
        "brightness": tv.adjust_brightness,
        "contrast": tv.adjust_contrast,
        "saturation": tv.adjust_saturation,
    }.items():
        out = ColorJitter(**{setting: 0.6})(images, stream(2))
        factors = 0.4 + 1.2 * torch.rand(5, 1, 1, 1, generator=stream(2))
        for i in range(5):
            expected = adjust(images[i], float(factors[i]))
            torch.testing.assert_close(out[i], expected, atol=2e-5, rtol=0)


def test_strengths_above_one_never_give_a_negative_factor(images):
    grey = _grey(images).mean(dim=(1, 2, 3), keepdim=True)
    out = ColorJitter(contrast=5.0)(images, stream())
    sign = torch.sign(out - grey) * torch.sign(images - grey)
    assert (sign[(out > 0) & (out < 1)] >= 0).all()


def test_hue_rotation_turns_chroma_and_keeps_luma(images):
    muted = 0.5 + 0.1 * (images - 0.5)  # far from the clamp
    turns = torch.tensor([0.0, 0.5, 0.25, -0.25, 1.0])
    out = ColorJitter._rotate_hue(muted, turns)
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    torch.testing.assert_close((out * luma).sum(1), (muted * luma).sum(1), atol=2e-4, rtol=0)
    torch.testing.assert_close(out[[0, 4]], muted[[0, 4]], atol=1e-5, rtol=0)
    back = ColorJitter._rotate_hue(out, -turns)
    torch.testing.assert_close(back, muted, atol=1e-5, rtol=0)
    grey = (muted[1] * luma[0]).sum(0, keepdim=True)
    torch.testing.assert_close(out[1] - grey, grey - muted[1], atol=5e-4, rtol=0)  # half a turn: the opposite colour


def test_grayscale_is_torchvisions(images):
    out = RandomGrayscale(1.0)(images, stream())
    torch.testing.assert_close(out, tv.rgb_to_grayscale(images, num_output_channels=3), atol=1e-6, rtol=0)


def test_the_whole_image_resized_to_its_own_size_is_the_identity():
    images = torch.rand(4, 3, 16, 16, generator=stream())
    out = RandomResizedCrop(16, scale=[1.0, 1.0], ratio=[1.0, 1.0])(images, stream())
    torch.testing.assert_close(out, images, atol=1e-5, rtol=0)


def test_a_resized_crop_of_whole_pixels_is_torchvisions():
    images = torch.rand(1, 3, 20, 20, generator=stream())
    crop = RandomResizedCrop(20)
    crop.boxes = lambda *_: torch.tensor([[3.0, 5.0, 8.0, 11.0]])  # type: ignore[method-assign]
    out = crop(images, stream())
    expected = tv.resized_crop(images, 3, 5, 8, 11, [20, 20], antialias=False)
    # At the box's rim torchvision repeats the rim, while the grid reaches half a pixel beyond it.
    torch.testing.assert_close(out[..., 3:-3, 3:-3], expected[..., 3:-3, 3:-3], atol=1e-4, rtol=0)


def test_boxes_have_the_scale_ratio_and_place_they_should():
    crop = RandomResizedCrop(8, scale=[0.1, 0.5], ratio=[0.5, 2.0])
    top, left, height, width = crop.boxes(20_000, 30, 40, stream()).unbind(1)
    area, ratio = height * width / 1200, width / height
    assert area.min() >= 0.1 - 1e-5 and area.max() <= 0.5 + 1e-5
    assert ratio.min() >= 0.5 - 1e-4 and ratio.max() <= 2.0 + 1e-4
    assert (top >= 0).all() and (top + height <= 30 + 1e-4).all()
    assert (left >= 0).all() and (left + width <= 40 + 1e-4).all()
    for place in (top / (30 - height), left / (40 - width)):  # the corner is uniform over the valid positions
        shares = place[(30 - height > 1) & (40 - width > 1)].sort().values
        uniform = torch.linspace(0, 1, len(shares))
        assert (shares - uniform).abs().max() < 1.95 / math.sqrt(len(shares))  # Kolmogorov-Smirnov, 0.1 %
    small = area < 0.2  # where hardly any draw is rejected, the ratio is uniform in its logarithm
    assert abs(ratio[small].log().mean()) < 0.03


def test_boxes_fall_back_to_the_largest_central_one():
    """An image of 4 x 100 pixels has no crop of its whole area with a ratio of at most 4/3."""
    box = RandomResizedCrop(8, scale=[1.0, 1.0]).boxes(3, 4, 100, stream())
    expected = torch.tensor([0.0, (100 - 4 * 4 / 3) / 2, 4.0, 4 * 4 / 3])
    torch.testing.assert_close(box, expected.expand(3, 4))


@pytest.mark.parametrize(
    ("build", "key"),
    [
        (lambda: RandomResizedCrop(0), "size=0"),
        (lambda: RandomResizedCrop(8, scale=[0.5, 0.2]), "scale"),
        (lambda: RandomResizedCrop(8, ratio=[1.0]), "ratio"),
        (lambda: RandomCrop(-1), "padding=-1"),
        (lambda: RandomCrop(1.5), "padding=1.5"),
        (lambda: RandomCrop(1, mode="edge"), "mode='edge'"),  # type: ignore[arg-type]
        (lambda: RandomHorizontalFlip(1.5), "RandomHorizontalFlip: p=1.5"),
        (lambda: RandomVerticalFlip(-0.1), "RandomVerticalFlip: p=-0.1"),
        (lambda: RandomRotation([10.0, -10.0]), "degrees"),
        (lambda: ColorJitter(brightness=-1.0), "brightness=-1"),
        (lambda: ColorJitter(hue=0.7), "hue=0.7"),
        (lambda: RandomGrayscale(2.0), "p=2.0"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(build, key):
    with pytest.raises(ConfigError, match=key):
        build()
