"""Hub images from local directories, and what is said when they are missing or damaged."""

import re
import time

import pytest
import torch
from data_helpers import encode, write_parquet

from uqbench.data.images import EncodedImages, PixelImages
from uqbench.data.sources import HubImages, Source, _answers
from uqbench.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def _private_datasets_cache(tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


def hub(path=None, image="img", label="label", num_classes=3, **more) -> HubImages:
    splits = more.pop("splits", {"train": "train", "test": "test"})
    return HubImages("owner/name", image, label, splits, num_classes, path=None if path is None else str(path), **more)


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randint(256, (7, 3, 5, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture
def local(tmp_path, pixels):
    directory = tmp_path / "set"
    directory.mkdir()
    for split in ("train", "test"):
        write_parquet(directory / f"{split}.parquet", [encode(p) for p in pixels], [0, 1, 2, 0, 1, 2, 0], "img")
    return directory


def test_local_parquet_is_read_bit_for_bit(local, pixels):
    source = hub(local)
    assert isinstance(source, Source)
    images = source.read("test").load()
    assert isinstance(images, PixelImages)
    assert torch.equal(images.pixels, pixels)
    assert images.labels.tolist() == [0, 1, 2, 0, 1, 2, 0] and images.labels.dtype == torch.int64
    some = source.read("train").select(torch.tensor([5, 1])).load()
    assert torch.equal(some.pixels, pixels[[5, 1]]) and some.labels.tolist() == [2, 1]


def test_greyscale_and_palette_images_become_three_channels(tmp_path):
    from PIL import Image

    grey = torch.arange(20, dtype=torch.uint8).view(4, 5) * 12
    with Image.new("P", (5, 4), 1) as palette:
        palette.putpalette([0, 0, 0, 10, 20, 30])
        palette.save(tmp_path / "p.png", transparency=0)
    write_parquet(tmp_path / "train.parquet", [encode(grey), (tmp_path / "p.png").read_bytes()], [0, 1])
    (tmp_path / "p.png").unlink()
    images = hub(tmp_path, "image").read("train").load()
    assert torch.equal(images.pixels[0], grey.expand(3, 4, 5))
    assert images.pixels[1, :, 0, 0].tolist() == [10, 20, 30]


def test_local_image_folder(tmp_path, pixels):
    for split in ("train", "test"):
        for label, name in enumerate(["ant", "bee", "cow"]):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            (folder / "0.png").write_bytes(encode(pixels[label]))
    # The columns of an image folder are image and label, whatever the hub calls its own.
    images = hub(tmp_path, label="fine_label").read("test").load()
    order = images.labels.argsort()
    assert images.labels[order].tolist() == [0, 1, 2]
    assert torch.equal(images.pixels[order], pixels[:3])


def test_images_of_different_sizes_or_too_large_stay_encoded(tmp_path, local, pixels):
    images = hub(local).read("train")
    assert isinstance(images, EncodedImages)
    assert images.load(max_bytes=7 * 60 - 1) is images
    assert images.load(max_side=4) is images
    assert isinstance(images.load(max_bytes=7 * 60, max_side=5), PixelImages)
    (tmp_path / "sizes").mkdir()
    write_parquet(tmp_path / "sizes" / "train.parquet", [encode(pixels[0]), encode(pixels[1, :, 1:])], [0, 1])
    images = hub(tmp_path / "sizes", "image").read("train")
    assert images.load() is images
    assert images.decode(1).shape == (3, 4, 4)
    assert images.select(torch.tensor([1])).decode(0).shape == (3, 4, 4)


def test_fingerprints_are_stable_and_see_one_pixel_and_one_label(local, pixels):
    labels = torch.arange(7) % 3
    images = hub(local).read("train").load()
    assert images.fingerprint == PixelImages(pixels.clone(), images.labels, "elsewhere").fingerprint
    changed, relabelled = pixels.clone(), labels.clone()
    changed[3, 1, 2, 2] += 1
    relabelled[0] = 2
    prints = [PixelImages(p, l, "").fingerprint for p, l in [(pixels, labels), (changed, labels), (pixels, relabelled)]]  # noqa: E741
    assert len(set(prints)) == 3
    encoded = hub(local).read("train")
    assert encoded.fingerprint == hub(local).read("test").fingerprint
    assert encoded.fingerprint != encoded.select(torch.tensor([1, 0, 2, 3, 4, 5, 6])).fingerprint


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_missing_directory(tmp_path):
    with pytest.raises(DataError) as error:
        hub(tmp_path / "nowhere").read("train")
    assert re.search(r"owner/name: data\.path=.*nowhere does not exist; give the directory", one_line(error))


def test_an_empty_directory_or_split(tmp_path, local):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as error:
        hub(tmp_path / "empty").read("train")
    assert "train.parquet" in one_line(error)
    with pytest.raises(DataError) as error:
        hub(local, splits={"train": "train", "val": "validation"}).read("val")
    assert "cannot read split 'validation'" in one_line(error)


def test_a_truncated_parquet_file(local):
    content = (local / "test.parquet").read_bytes()
    (local / "test.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError) as error:
        hub(local).read("test")
    assert "cannot read split 'test'" in one_line(error) and "undamaged" in one_line(error)


def test_a_damaged_row_is_named(tmp_path, pixels):
    files = [encode(p) for p in pixels]
    for row, damaged in {3: files[3][:-40], 5: b"not an image", 6: None}.items():
        contents = [*files[:row], damaged, *files[row + 1 :]]
        write_parquet(tmp_path / "train.parquet", contents, [0] * 7)
        images = hub(tmp_path, "image").read("train")
        for read in (images.load, lambda images=images, row=row: images.decode(row)):
            with pytest.raises(DataError) as error:
                read()
            assert f"split 'train': column 'image', row {row} is not a readable image" in one_line(error)
        rest = images.select(torch.tensor([r for r in range(7) if r != row]))
        assert len(rest.load()) == 6


def test_wrong_columns_and_labels(tmp_path, pixels):
    files = [encode(p) for p in pixels[:3]]

    def error_of(labels, **columns) -> str:
        write_parquet(tmp_path / "train.parquet", files, labels, **columns)
        with pytest.raises(DataError) as error:
            hub(tmp_path, "image").read("train")
        return one_line(error)

    assert "no column ['image']" in error_of([0, 1, 2], image="picture")
    assert "labels outside 0..2, the first in row 1: 3" in error_of([0, 3, 2])
    assert "the first in row 2: -1" in error_of([0, 1, -1])
    assert "row 0 is 'cat', expected a class number" in error_of(["cat", "dog", "cat"])
    assert "row 1 is None" in error_of([0, None, 2])


def test_a_column_that_holds_no_images(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [1.5, 2.5], "label": [0, 1]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match="column 'image' does not hold images"):
        hub(tmp_path, "image").read("train")


def test_offline_the_hub_is_not_waited_for(monkeypatch):
    """`datasets` alone retries for half a minute; here nothing is sent."""
    import datasets
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    start = time.perf_counter()
    with pytest.raises(DataError) as error:
        hub().read("train")
    assert time.perf_counter() - start < 5
    text = one_line(error)
    assert "owner/name" in text and "data.path=DIR" in text and "does not answer" in text and "cache" in text
    assert not datasets.config.HF_HUB_OFFLINE and not huggingface_hub.constants.HF_HUB_OFFLINE  # as before


def test_the_offline_switch_is_respected(monkeypatch):
    import huggingface_hub

    def no_probe(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("uqbench.data.sources._answers", no_probe)
    with pytest.raises(DataError, match="HF_HUB_OFFLINE"):
        hub().read("train")
    assert huggingface_hub.constants.HF_HUB_OFFLINE


def test_the_probe_knows_a_listening_port_from_a_closed_one(monkeypatch):
    import socket

    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert _answers(f"http://127.0.0.1:{port}", 2.0)
    assert not _answers(f"http://127.0.0.1:{port}", 2.0)


def test_a_hub_set_is_asked_for_by_name_configuration_and_split(monkeypatch, local):
    """The call that cannot be made here, with a stand-in for the library's answer."""
    import datasets

    table = datasets.load_dataset(str(local), split="test")
    calls = []

    def load_dataset(*args, **settings):
        calls.append((args, settings))
        return table

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr("uqbench.data.sources._answers", lambda *_: True)
    assert len(hub(config="cropped_digits", revision="abc").read("test")) == 7
    assert calls == [(("owner/name", "cropped_digits"), {"split": "test", "revision": "abc"})]


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"splits": {"train": "train", "dev": "dev"}}, "unknown \\['dev'\\]"),
        ({"splits": {"test": "test"}}, "must name the 'train'"),
        ({"num_classes": 1}, "num_classes=1"),
        ({"timeout": 0.0}, "timeout=0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, key):
    with pytest.raises(ConfigError, match=key):
        hub(**settings)
