"""The YAML files of conf/source and conf/data compose, fit the signatures, and build."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

import uqbench
from uqbench.data.corruptions import CORRUPTIONS
from uqbench.data.shift import CIFARC
from uqbench.data.sources import HubImages
from uqbench.data.vision import VisionData
from uqbench.errors import DataError

CONF = Path(uqbench.__file__).parent.parent / "conf"
SETS = sorted(file.stem for file in (CONF / "data").glob("*.yaml"))
SOURCES = sorted(file.stem for file in (CONF / "source").glob("*.yaml"))


@pytest.fixture
def configure(tmp_path):
    """Composes a data set with a stand-in for the backbone's settings."""

    def run(*overrides: str, size: int = 32) -> DictConfig:
        mean, std = "[0.5, 0.4, 0.3]", "[0.2, 0.2, 0.2]"
        (tmp_path / "primary.yaml").write_text(
            f"defaults: [data: digits, _self_]\nbackbone: {{image_size: {size}, mean: {mean}, std: {std}}}\n"
            f"hydra: {{searchpath: ['file://{CONF}']}}\n"
        )
        with initialize_config_dir(str(tmp_path), version_base=None):
            return compose("primary", overrides=list(overrides))

    return run


def size_of(name: str) -> int:
    return 224 if name in ("flowers102", "dtd", "pets") else 32


@pytest.mark.parametrize("name", SETS)
def test_every_set_composes_and_builds_without_reading(name, configure):
    cfg = configure(f"data={name}", "data.path=/nowhere", size=size_of(name))
    data = instantiate(cfg.data)
    assert isinstance(data, VisionData) and data.name == name.removesuffix("c")
    assert data.image_size == size_of(name) and data.mean == [0.5, 0.4, 0.3]
    assert data.eval_splits[:2] == ["val", "test"]
    assert type(data.mean) is list and all(callable(t) for t in data.augment)
    if name != "digits":
        assert isinstance(data.source, HubImages) and data.source.path == "/nowhere"
        with pytest.raises(DataError, match=r"data\.path=/nowhere does not exist"):
            data.setup()


@pytest.mark.parametrize("name", SETS)
def test_every_set_says_how_it_is_run(name):
    first = (CONF / "data" / f"{name}.yaml").read_text().splitlines()[0]
    assert first.startswith("# python -m uqbench ") and f"data={name}" in first


@pytest.mark.parametrize("name", SETS)
def test_default_out_of_distribution_sets_need_no_download(name, configure):
    cfg = configure(f"data={name}", size=size_of(name))
    targets = {node["_target_"] for node in OmegaConf.to_container(cfg.data.ood).values()}
    assert targets <= {"uqbench.data.embedded.Photographs"}


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_can_be_added_as_an_out_of_distribution_set(name, configure):
    path = [] if name in ("digits", "photographs") else [f"data.ood.extra.path=/dir/{name}"]
    cfg = configure("data=cifar10", f"+source@data.ood.extra={name}", *path)
    data = instantiate(cfg.data)
    assert data.eval_splits[-2:] == ["ood/photographs", "ood/extra"]
    assert data.source.path is None
    if path:
        assert data.ood["extra"].path == f"/dir/{name}"
    without = instantiate(configure("data=cifar10", f"+source@data.ood.extra={name}", "~data.ood.photographs").data)
    assert list(without.ood) == ["extra"]


def test_corruptions_are_chosen_on_the_command_line(configure):
    every = configure("data=cifar10", "data.shift.corruptions=null", "data.shift.severities=[1,2,3,4,5]")
    assert instantiate(every.data).shift.corruptions == list(CORRUPTIONS)
    official = instantiate(configure("data=cifar10c", "data.shift.path=/dir").data).shift
    assert isinstance(official, CIFARC) and official.path == "/dir" and len(official.corruptions) == 19
    assert instantiate(configure("data=cifar10", "data.shift=null").data).shift is None


def test_the_demo_set_reads_and_is_the_same_every_time(configure):
    data = instantiate(configure("data=digits").data)
    counts = data.counts
    assert (counts["train"], counts["val"], counts["test"]) == (200, 202, 1348)
    shifted = [name for name in counts if name.startswith("shift/")]
    assert len(shifted) == 12 and all(counts[name] == 200 for name in shifted)
    assert counts["ood/photographs"] == 400
    assert data.fingerprint == instantiate(configure("data=digits").data).fingerprint
    batch = next(iter(data.eval_loader(shifted[0])))
    assert batch["image"].shape == (64, 3, 32, 32)
    patch = next(iter(data.eval_loader("ood/photographs")))["image"]
    assert patch.shape[1:] == (3, 8, 8) and (patch == patch[:, :1]).all()  # as small and as grey as a digit
    assert data.describe()["shift"]["label"] == "Digits-C (regenerated: 4 of 19)"
