"""Every experiment file composes at both scales, instantiates, and runs three steps."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from uqbench.__main__ import CONF
from uqbench.config import build, check_config
from uqbench.run import run
from uqbench.task import Classification

EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
THREE_STEPS = [
    "logger=none", "trainer.enable_progress_bar=false", "trainer.max_epochs=1", "+trainer.limit_train_batches=3",
    "data.batch_size=4", "data.train_limit=12", "data.val_limit=10", "data.test_limit=10", "data.ood_limit=10",
    "data.shift.limit=10", "data.shift.corruptions=[fog]", "data.shift.severities=[5]",
]  # fmt: skip


def config(*overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides))


@pytest.fixture(scope="module")
def fake_cifar10(tmp_path_factory) -> Path:
    """A local directory with the hub's columns: 200 random images a split."""
    folder = tmp_path_factory.mktemp("cifar10")
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        images = [Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(200)]
        rows = {"img": images, "label": [i % 10 for i in range(200)]}
        features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("method", ["single", "deep_ensemble", "sve"])
def test_three_steps_at_demo_scale(tmp_path, experiment, method, fake_cifar10):
    overrides = [f"experiment={experiment}", f"method={method}", *THREE_STEPS, f"output_dir={tmp_path}"]
    if experiment.endswith("cifar10"):
        overrides.append(f"data.path={fake_cifar10}")
    if method != "single":
        overrides.append("method.num_members=2")
    record = run(config(*overrides))
    assert record["experiment"] == experiment and 0 <= record["metrics"]["test/accuracy"] <= 1


@pytest.mark.parametrize("method", ["single", "deep_ensemble", "sve", "sve_official_code"])
@pytest.mark.parametrize("backbone", ["vit_dino", "vit_dinov2"])
def test_paper_scale_instantiates_without_weights(method, backbone):
    cfg = config(
        "experiment=sve_vit", "scale=paper", f"method={method}", f"backbone={backbone}", "backbone.weights=random",
        *(["method.num_members=2"] if method == "deep_ensemble" else []),
    )  # fmt: skip
    check_config(cfg)
    data = build(cfg.data)
    built = build(cfg.method)
    network = built.prepare(lambda seed: build(cfg.backbone, seed=seed), Classification(data.num_classes), cfg.seed)
    assert network.num_members == (1 if method == "single" else cfg.method.num_members)
    assert data.num_classes == 102 and data.image_size == 224
