"""The images that scikit-learn ships."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_sample_images

from uqbench.data.embedded import Digits, Photographs
from uqbench.data.sources import Source
from uqbench.errors import ConfigError


def test_digits_are_scikit_learns():
    source = Digits()
    assert isinstance(source, Source)
    images, digits = source.read("train"), load_digits()
    assert images.pixels.shape == (1797, 3, 8, 8) and images.pixels.dtype == torch.uint8
    assert np.array_equal(images.labels.numpy(), digits.target)
    grey = images.pixels[:, 0]
    assert torch.equal(images.pixels[:, 1], grey) and torch.equal(images.pixels[:, 2], grey)
    assert np.array_equal(np.round(grey.numpy() * (16 / 255)), digits.images)
    assert set(images.pixels.unique().tolist()) == {round(level * 255 / 16) for level in range(17)}


def test_patches_are_windows_of_the_photographs():
    images = Photographs(patch=9, count=4, shrink=1).read("train")
    assert images.labels.tolist() == [0, 1, 0, 1]
    photographs = load_sample_images().images
    for patch, label in zip(images.pixels, images.labels, strict=True):
        photograph = photographs[label]
        windows = np.lib.stride_tricks.sliding_window_view(photograph, (9, 9), axis=(0, 1))
        assert (windows == patch.numpy()).all(axis=(2, 3, 4)).any()


def test_a_shrunk_grey_patch_is_the_mean_of_its_window():
    coarse = Photographs(patch=8, count=4, shrink=8, greyscale=True).read("train").pixels
    fine = Photographs(patch=64, count=4, shrink=1, greyscale=True).read("train").pixels  # the same windows
    means = fine.float().view(4, 3, 8, 8, 8, 8).mean(dim=(3, 5))
    assert (coarse.float() - means).abs().max() <= 1
    assert (coarse == coarse[:, :1]).all()


def test_patches_depend_on_the_seed_alone():
    first = Photographs(count=10).read("train")
    torch.manual_seed(3)
    assert first.fingerprint == Photographs(count=10).read("train").fingerprint
    assert first.fingerprint != Photographs(count=10, seed=1).read("train").fingerprint


@pytest.mark.parametrize("settings", [{"patch": 300, "shrink": 2}, {"shrink": 0}, {"count": 0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match="photographs"):
        Photographs(**settings)
