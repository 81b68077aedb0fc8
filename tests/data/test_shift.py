"""Official CIFAR-10-C folders made on the spot, and the generated shift."""

import numpy as np
import pytest
import torch
from data_helpers import photographs

from uqbench.data.corruptions import corrupt
from uqbench.data.shift import CIFARC, GeneratedShift, Shift
from uqbench.errors import ConfigError, DataError

LABELS = torch.arange(30) % 10


@pytest.fixture
def folder(tmp_path):
    """Two corruptions of 30 test rows; the first pixel of a row holds (severity, row, which file)."""
    for which, name in enumerate(("fog", "frost")):
        array = np.zeros((150, 32, 32, 3), dtype=np.uint8)
        array[:, 0, 0, 0] = np.repeat(np.arange(1, 6), 30)
        array[:, 0, 0, 1] = np.tile(np.arange(30), 5)
        array[:, 0, 0, 2] = which
        array[:, 5, 9, 1] = 77
        np.save(tmp_path / f"{name}.npy", array)
    np.save(tmp_path / "labels.npy", np.tile(LABELS.numpy(), 5).astype(np.uint8))
    return tmp_path


def cifarc(folder, **settings) -> CIFARC:
    return CIFARC(str(folder), **{"corruptions": ["fog", "frost"], **settings})


def test_rows_of_a_severity_are_found_in_the_official_order(folder):
    shift = cifarc(folder)
    assert isinstance(shift, Shift)
    shift.setup(LABELS)
    rows = torch.tensor([4, 29, 0])
    for which, name in enumerate(("fog", "frost")):
        for severity in (1, 3, 5):
            images = shift.read(torch.empty(3), rows, name, severity)
            assert images.shape == (3, 3, 32, 32) and images.dtype == torch.uint8
            assert images[:, :, 0, 0].tolist() == [[severity, row, which] for row in (4, 29, 0)]
            assert images[:, 1, 5, 9].tolist() == [77] * 3  # height and width are not exchanged


@pytest.mark.parametrize("share", [0.9, 0.5, 0.0005, 0.0])
def test_a_truncated_file(folder, share):
    content = (folder / "frost.npy").read_bytes()
    (folder / "frost.npy").write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"frost\.npy is damaged or cut short.*download it again"):
        cifarc(folder).setup(LABELS)


def test_what_is_missing_or_does_not_fit(folder):
    with pytest.raises(DataError, match=r"data\.shift\.path=None is not set"):
        CIFARC().setup(LABELS)
    with pytest.raises(DataError, match=r"data\.shift\.path=.*none is not a directory"):
        CIFARC(str(folder / "none")).setup(LABELS)
    with pytest.raises(DataError, match=r"snow\.npy is missing"):
        cifarc(folder, corruptions=["fog", "snow"]).setup(LABELS)
    other = LABELS.clone()
    other[7] = 0
    with pytest.raises(DataError, match="not five times the labels"):
        cifarc(folder).setup(other)
    with pytest.raises(DataError, match=r"labels\.npy is uint8 \(150,\), expected uint8 \(145,\)"):
        cifarc(folder).setup(LABELS[:29])
    np.save(folder / "fog.npy", np.zeros((150, 32, 32, 3), dtype=np.float32))
    with pytest.raises(DataError, match=r"fog\.npy is float32"):
        cifarc(folder).setup(LABELS)
    np.save(folder / "fog.npy", np.array([{"pickled": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"fog\.npy is damaged"):  # and nothing was unpickled
        cifarc(folder).setup(LABELS)


def test_descriptions_name_what_was_read_or_generated(folder):
    assert CIFARC("d").describe("CIFAR-10")["label"] == "CIFAR-10-C (official files: 19 of 19)"
    made = GeneratedShift(["fog", "contrast"], [2]).describe("Digits")
    assert made["label"] == "Digits-C (regenerated: 2 of 19)"
    assert made["origin"] == "generated" and made["corruptions"] == ["fog", "contrast"]
    assert GeneratedShift().describe("CIFAR-10")["label"] == "CIFAR-10-C (regenerated: 17 of 19)"


def test_fingerprints_follow_content_and_settings(folder):
    def fingerprint():
        shift = cifarc(folder)
        shift.setup(LABELS)
        return shift.fingerprint

    first = fingerprint()
    assert first == fingerprint()
    array = np.load(folder / "fog.npy")
    array[0, 3, 3, 0] += 1
    np.save(folder / "fog.npy", array)
    assert first != fingerprint()
    assert GeneratedShift(["fog"]).fingerprint == GeneratedShift(["fog"], limit=5).fingerprint
    assert len({GeneratedShift(["fog"], seed=s).fingerprint for s in (0, 1)}) == 2


def test_small_images_are_enlarged_before_they_are_corrupted():
    small, rows = photographs(3, size=8), torch.tensor([3, 1, 9])
    out = GeneratedShift(["motion_blur"]).read(small, rows, "motion_blur", 3)
    large = torch.nn.functional.interpolate(small.float(), size=(32, 32), mode="bilinear").round().to(torch.uint8)
    assert torch.equal(out, corrupt(large, "motion_blur", 3, 0, rows))
    assert GeneratedShift(["fog"], resolution=8).read(small, rows, "fog", 1).shape == (3, 3, 8, 8)
    assert GeneratedShift(["fog"]).read(photographs(2, size=40), rows[:2], "fog", 1).shape == (2, 3, 40, 40)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GeneratedShift(["frost"]), "'frost' cannot be generated.*can be generated: gaussian_noise"),
        (lambda: GeneratedShift(["fogg"]), "'fogg' is not a corruption"),
        (lambda: GeneratedShift([]), "data.shift.corruptions must not be empty"),
        (lambda: GeneratedShift(["fog", "fog"]), "occurs twice"),
        (lambda: GeneratedShift(["fog"], [0]), "data.shift.severities"),
        (lambda: GeneratedShift(["fog"], [1, 1]), "data.shift.severities"),
        (lambda: GeneratedShift(["fog"], limit=0), "data.shift.limit"),
        (lambda: GeneratedShift(["fog"], resolution=0), "data.shift.resolution"),
        (lambda: CIFARC("d", ["rain"]), "unknown \\['rain'\\]"),
    ],
)
def test_settings_out_of_range_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
