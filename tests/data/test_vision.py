"""The data object: splits that are disjoint and stratified, loaders and transforms against brute force."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import InMemory, encode, photographs, write_parquet
from torchvision.transforms.v2 import functional as tv

from uqbench.data.augment import RandomCrop, RandomGrayscale, RandomHorizontalFlip, RandomResizedCrop
from uqbench.data.corruptions import corrupt
from uqbench.data.embedded import Digits, Photographs
from uqbench.data.images import EncodedImages, PixelImages
from uqbench.data.shift import CIFARC, GeneratedShift
from uqbench.data.sources import HubImages
from uqbench.data.vision import VisionData
from uqbench.errors import ConfigError, DataError

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.5]


def vision(source=None, image_size=6, **settings: Any) -> VisionData:
    settings = {"mean": MEAN, "std": STD, "batch_size": 8, "eval_batch_size": 7, **settings}
    return VisionData("made", "Made", source or InMemory(), image_size, **settings)


def values(data: VisionData, split: str) -> list[int]:
    """The value that fills each image of a split: which row of which of the source's splits it is."""
    loader = data.train_loader(0, "train") if split == "train" else data.eval_loader(split)
    batches = list(loader)
    order = torch.cat([b["index"] for b in batches]).argsort()
    return torch.cat([b["image"][:, 0, 0, 0] for b in batches])[order].tolist()


def labels(data: VisionData, split: str) -> list[int]:
    return torch.cat([b["target"] for b in data.eval_loader(split)]).tolist()


def normalise(images: torch.Tensor) -> torch.Tensor:
    return (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def test_validation_is_held_out_of_training_and_never_touches_the_test_rows():
    data = vision(val_fraction=0.2)
    assert data.counts == {"train": 32, "val": 8, "test": 20}
    train, val = values(data, "train"), values(data, "val")
    assert sorted(train + val) == list(range(40))
    assert torch.tensor(val).remainder(4).bincount().tolist() == [2, 2, 2, 2]
    assert values(data, "test") == list(range(200, 220))
    assert labels(data, "test") == [i % 4 for i in range(20)]


def test_the_sources_own_validation_split_is_used():
    data = vision(InMemory(val=12), val_fraction=0.5)
    assert data.counts == {"train": 40, "val": 12, "test": 20}
    assert values(data, "val") == list(range(100, 112))
    assert data.describe()["validation"] == "source"


def test_a_single_split_is_divided_in_three():
    data = vision(InMemory(train=100, test=0), test_fraction=0.5, val_fraction=0.2)
    parts = {split: values(data, split) for split in ("train", "val", "test")}
    assert {k: len(v) for k, v in parts.items()} == {"train": 40, "val": 10, "test": 50}
    assert sorted(itertools.chain(*parts.values())) == list(range(100))
    for rows in parts.values():
        counts = torch.tensor(rows).remainder(4).bincount()
        assert counts.max() - counts.min() <= 1
    with pytest.raises(ConfigError, match=r"test_fraction=None.*no test split"):
        vision(InMemory(test=0))


def test_limits_are_exact_stratified_nested_and_leave_the_other_splits_alone():
    sets = {n: vision(train_limit=n, val_fraction=0.2) for n in (4, 12, 20, 32)}
    rows = {n: set(values(data, "train")) for n, data in sets.items()}
    assert all(len(r) == n for n, r in rows.items())
    assert rows[4] < rows[12] < rows[20] < rows[32]
    assert torch.tensor(sorted(rows[12])).remainder(4).bincount().tolist() == [3, 3, 3, 3]
    assert len({tuple(values(data, "val")) for data in sets.values()}) == 1
    assert vision(test_limit=8, val_limit=4).counts == {"train": 36, "val": 4, "test": 8}
    assert set(values(vision(test_limit=8), "test")) < set(values(vision(test_limit=16), "test"))
    with pytest.raises(ConfigError, match=r"data\.train_limit=33: made has 32 rows"):
        vision(train_limit=33, val_fraction=0.2).setup()


def test_splits_depend_on_the_split_seed_alone():
    first = values(vision(val_fraction=0.2), "val")
    torch.manual_seed(5)
    assert first == values(vision(val_fraction=0.2, batch_size=3, image_size=9), "val")
    assert first != values(vision(val_fraction=0.2, split_seed=1), "val")


def test_a_batch_joins_image_target_and_index():
    data = vision(val_fraction=0.2)
    rows = values(data, "train")
    seen = 0
    for batch in data.train_loader(3, "train"):
        assert batch["image"].dtype == torch.uint8 and batch["target"].dtype == batch["index"].dtype == torch.int64
        source_rows = [rows[i] for i in batch["index"].tolist()]
        assert batch["image"][:, 0, 0, 0].tolist() == source_rows
        assert batch["target"].tolist() == [row % 4 for row in source_rows]
        seen += len(batch["index"])
    assert seen == 32
    batch = next(iter(data.train_loader(3, "train", num_members=3, member_batches="independent")))
    assert batch["image"].shape == (24, 3, 6, 6)
    assert len({tuple(part.tolist()) for part in batch["index"].split(8)}) == 3
    assert len(data.train_loader(3, "train")) == 4
    assert len(vision(val_fraction=0.15, drop_last=True).train_loader(3, "train")) == 4  # 34 rows


def test_evaluation_transform_against_torchvision():
    images = photographs(12, size=10)

    class Source(InMemory):
        def read(self, split):
            return PixelImages(images, torch.arange(12) % 4, split)

    for size in (10, 16, 7):
        data = vision(Source(), size)
        batch = next(iter(data.eval_loader("test")))
        out = data.eval_transform(batch)
        expected = tv.resize(images[:7].float() / 255, [size, size], antialias=True)
        torch.testing.assert_close(out["image"], normalise(expected), atol=1e-4, rtol=0)
        assert torch.equal(out["target"], batch["target"]) and torch.equal(out["index"], batch["index"])
    data = vision(Source(), 8, eval_crop=8 / 9)
    out = data.eval_transform(next(iter(data.eval_loader("test"))))["image"]
    expected = tv.center_crop(tv.resize(images[:7], [9], antialias=True), [8, 8]).float() / 255
    torch.testing.assert_close(out, normalise(expected))


def test_training_transform_resizes_augments_and_normalises():
    data = vision(image_size=12, augment=[RandomHorizontalFlip(), RandomCrop(2)])
    batch = {"image": photographs(8, size=6), "target": torch.zeros(8).long(), "index": torch.arange(8)}
    out = data.train_transform(batch, torch.Generator().manual_seed(1))["image"]
    stream = torch.Generator().manual_seed(1)
    images = torch.nn.functional.interpolate(batch["image"].float() / 255, size=(12, 12), mode="bilinear")
    expected = normalise(RandomCrop(2)(RandomHorizontalFlip()(images, stream), stream))
    torch.testing.assert_close(out, expected)
    assert batch["image"].dtype == torch.uint8  # the batch that was given is left as it was


def test_a_leading_resized_crop_takes_the_original_pixels():
    crop = RandomResizedCrop(12)
    data = vision(image_size=12, augment=[crop])
    batch = {"image": photographs(8, size=6), "target": torch.zeros(8).long(), "index": torch.arange(8)}
    out = data.train_transform(batch, torch.Generator().manual_seed(1))["image"]
    expected = normalise(crop(batch["image"].float() / 255, torch.Generator().manual_seed(1)))
    torch.testing.assert_close(out, expected)


@pytest.fixture
def varied(tmp_path, monkeypatch, tmp_path_factory) -> HubImages:
    """A local set of images of different sizes."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
    for split, rows in (("train", 20), ("test", 8)):
        files = [encode(image[:, : 20 + i, : 40 - i]) for i, image in enumerate(photographs(rows, size=40))]
        write_parquet(tmp_path / f"{split}.parquet", files, [i % 2 for i in range(rows)])
    return HubImages("a/b", "image", "label", {"train": "train", "test": "test"}, 2, path=str(tmp_path))


def test_images_of_different_sizes_are_decoded_alike_by_any_number_of_workers(varied):
    def build(workers):
        augment = [RandomResizedCrop(12), RandomGrayscale(0.5)]
        return vision(varied, 12, augment=augment, eval_crop=12 / 14, num_workers=workers, val_fraction=0.2)

    zero, one = build(0), build(1)
    assert zero.describe()["storage"] == "decoded by the loader" and zero.fingerprint == one.fingerprint
    loaders = [data.train_loader(0, "train") for data in (zero, one)]
    for loader in loaders:
        loader.sampler.set_epoch(2)
    for a, b in zip(*loaders, strict=True):
        assert a["image"].shape[1:] == (3, 12, 12)
        assert torch.equal(a["image"], b["image"]) and torch.equal(a["index"], b["index"])
        stream = torch.Generator().manual_seed(0)  # the crop is done, the rest is not
        expected = normalise(RandomGrayscale(0.5)(a["image"].float() / 255, stream))
        out = zero.train_transform(a, torch.Generator().manual_seed(0))["image"]
        torch.testing.assert_close(out, expected)
    assert zero.describe()["encoding"] == "PNG"
    images = zero._split("test").images
    assert isinstance(images, EncodedImages)
    batch = next(iter(one.eval_loader("test")))
    for row in range(7):
        expected = tv.center_crop(tv.resize(images.decode(row), [14], antialias=True), [12, 12])
        assert torch.equal(batch["image"][row], expected)
    torch.testing.assert_close(one.eval_transform(batch)["image"], normalise(batch["image"].float() / 255))


def test_a_generated_shift_corrupts_the_same_rows_alike_whatever_the_batch():
    shift = GeneratedShift(["gaussian_noise", "contrast"], [1, 5], limit=8, resolution=6)
    data = vision(shift=shift, test_limit=16)
    assert data.eval_splits == [
        "val", "test", "shift/gaussian_noise/1", "shift/gaussian_noise/5", "shift/contrast/1", "shift/contrast/5"
    ]  # fmt: skip
    assert data.counts["shift/contrast/5"] == 8
    out = torch.cat([b["image"] for b in data.eval_loader("shift/gaussian_noise/5")])
    rows = data._split("shift/gaussian_noise/5").rows
    assert set(rows.tolist()) < set(data._split("test").rows.tolist())
    clean = InMemory().read("test").pixels[rows]
    assert torch.equal(out, corrupt(clean, "gaussian_noise", 5, 0, rows))
    assert labels(data, "shift/contrast/1") == (rows % 4).tolist()
    # The same test rows under another limit are corrupted in the same way.
    wider = vision(shift=GeneratedShift(["gaussian_noise"], [5], resolution=6))
    every = torch.cat([b["image"] for b in wider.eval_loader("shift/gaussian_noise/5")])
    assert torch.equal(every[rows], out)
    assert data.describe()["shift"]["label"] == "Made-C (regenerated: 2 of 19)"


def test_the_official_files_are_read_at_the_rows_of_the_test_split(tmp_path):
    array = np.zeros((100, 32, 32, 3), dtype=np.uint8)
    array[..., 0] = np.tile(np.arange(20), 5)[:, None, None]
    array[..., 1] = np.repeat(np.arange(1, 6), 20)[:, None, None]
    np.save(tmp_path / "fog.npy", array)
    np.save(tmp_path / "labels.npy", np.tile(np.arange(20) % 4, 5).astype(np.uint8))
    data = vision(shift=CIFARC(str(tmp_path), ["fog"], [2, 4], limit=12), test_limit=16)
    rows = data._split("shift/fog/4").rows
    images = torch.cat([b["image"] for b in data.eval_loader("shift/fog/4")])
    assert len(rows) == 12 and images[:, 0, 0, 0].tolist() == rows.tolist()
    assert images[:, 1, 0, 0].tolist() == [4] * 12
    assert labels(data, "shift/fog/4") == (rows % 4).tolist()
    np.save(tmp_path / "labels.npy", np.zeros(100, dtype=np.uint8))
    with pytest.raises(DataError, match="labels"):
        vision(shift=CIFARC(str(tmp_path), ["fog"], [2])).setup()


def test_out_of_distribution_rows_have_no_target():
    ood = {"other": InMemory(train=9, test=11, size=9), "single": Photographs(patch=6, count=30)}
    data = vision(ood=ood, ood_limit=10)
    assert data.eval_splits == ["val", "test", "ood/other", "ood/single"]
    assert data.counts["ood/other"] == data.counts["ood/single"] == 10
    assert set(values(data, "ood/other")) < set(range(200, 211))
    assert labels(data, "ood/single") == [-1] * 10
    batch = next(iter(data.eval_loader("ood/other")))
    assert data.eval_transform(batch)["image"].shape == (7, 3, 6, 6)


def test_a_missing_out_of_distribution_set_is_told_apart_from_the_main_one(tmp_path):
    missing = HubImages("a/svhn", "image", "label", {"train": "train", "test": "test"}, 10, path=str(tmp_path / "no"))
    with pytest.raises(DataError, match=r"data\.ood\.svhn\.path=.*does not exist.*~data\.ood\.svhn"):
        vision(ood={"svhn": missing}).setup()


def test_the_fingerprint_is_stable_and_sees_a_pixel_the_rows_and_the_shift():
    class Changed(InMemory):
        def read(self, split):
            images = super().read(split)
            if split == "test":
                images.pixels[7, 2, 1, 1] += 1
            return images

    first = vision().fingerprint
    assert first == vision(batch_size=3, image_size=9).fingerprint and len(first) == 16
    others = [
        vision(Changed()),
        vision(split_seed=1),
        vision(train_limit=20),
        vision(shift=GeneratedShift(["fog"])),
        vision(shift=GeneratedShift(["fog"], seed=1)),
        vision(ood={"x": Photographs(patch=6, count=4)}),
        vision(ood={"x": Photographs(patch=6, count=4, seed=1)}),
    ]
    assert len({first, *(data.fingerprint for data in others)}) == 8


def test_digits_as_the_demo_uses_them():
    data = vision(Digits(), 32, test_fraction=0.75, val_fraction=0.45, train_limit=200)
    assert data.counts == {"train": 200, "val": 202, "test": 1348} and data.num_classes == 10
    counts = torch.tensor(labels(data, "val")).bincount()
    assert counts.min() >= 19 and counts.max() <= 22


def test_an_unknown_split_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match="split 'ood/x': made has train, val, test"):
        vision().eval_loader("ood/x")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 0}, "data.image_size=0"),
        ({"batch_size": 0}, "data.batch_size=0"),
        ({"train_limit": 0}, "data.train_limit=0"),
        ({"ood_limit": -1}, "data.ood_limit=-1"),
        ({"mean": [0.5]}, "data.mean"),
        ({"std": [0.1, 0.0, 0.1]}, "std positive"),
        ({"val_fraction": 0.0}, "data.val_fraction=0"),
        ({"val_fraction": 1.0}, "data.val_fraction=1"),
        ({"eval_crop": 1.2}, "data.eval_crop=1.2"),
        ({"eval_crop": 0.125}, "data.eval_crop=0.125 must be in"),
        ({"num_workers": -1}, "data.num_workers"),
        ({"augment": ["flip"]}, r"data\.augment\[0\]='flip'"),
        ({"augment": [RandomCrop(1), RandomResizedCrop(8)]}, r"data\.augment\[1\]\.size=8 must be data\.image_size=6"),
    ],
)
def test_settings_out_of_range_are_refused_before_anything_is_read(settings, message):
    with pytest.raises(ConfigError, match=message):
        vision(**settings)
