"""Every wrong configuration is refused before any work, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from uqbench.__main__ import CONF
from uqbench.config import build, check_config, config_hash
from uqbench.errors import ConfigError


def composed(*overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides))


@pytest.mark.parametrize("scale", ["demo", "paper"])
@pytest.mark.parametrize("method", ["single", "deep_ensemble", "sve", "sve_official_code"])
def test_every_method_at_every_scale_is_accepted(scale, method):
    cfg = composed("experiment=sve_vit", f"scale={scale}", f"method={method}")
    check_config(cfg)
    assert cfg.method.name == method


@pytest.mark.parametrize("data", sorted(path.stem for path in (CONF / "data").glob("*.yaml")))
def test_every_data_set_is_accepted(data):
    check_config(composed(f"data={data}"))


@pytest.mark.parametrize(
    "override, message",
    [
        ("+sead=1", r"^unknown key 'sead'; did you mean seed\?"),
        ("+method.nosie=0.1", r"^unknown key method\.nosie; did you mean noise\?"),
        ("+backbone.patch=4", r"^unknown key backbone\.patch; known are "),
        ("+trainer.max_epoch=3", r"^unknown key trainer\.max_epoch; did you mean max_epochs\?"),
        ("+data.shift.corruption=[fog]", r"^unknown key data\.shift\.corruption; did you mean corruptions\?"),
        ("+callbacks.evaluation.bins=3", r"^unknown key callbacks\.evaluation\.bins"),
        ("method.num_members=four", r"^method\.num_members must be int, got 'four'"),
        ("method.noise=[1]", r"^method\.noise must be float, got \[1\]"),
        ("method.qkv=splitt", r"^method\.qkv must be Literal\['split', 'fused'\], got 'splitt'"),
        ("optim.lr=fast", r"^optim\.lr must be float, got 'fast'"),
        ("data.train_limit=1.5", r"^data\.train_limit must be int \| None, got 1\.5"),
        ("seed=-1", "^seed must not be negative, got -1"),
        ("seed=one", "^seed must be int, got 'one'"),
        ("select=first", "^select must be best or last, got 'first'"),
        ("method._target_=uqbench.methods.sve.SVEE", r"^method\._target_: cannot import uqbench\.methods\.sve\.SVEE"),
        ("data.num_workers=${nowhere}", "nowhere"),
        ("method.name=3", r"^method\.name must be a string"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        check_config(composed(override))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "override, message",
    [
        ("method.num_members=0", r"^method\.num_members must be at least 1, got 0"),
        ("method.noise=-1", r"^method\.noise must not be negative"),
        ("method.targets=[]", r"^method\.targets is empty"),
        ("method.top_k=0", r"^method\.top_k must be at least 1"),
        ("method.parametrisation=log", r"^method\.decay=zero cannot be had"),
    ],
)
def test_values_out_of_range_are_refused_by_the_constructors(override, message):
    cfg = composed(override)
    check_config(cfg)
    with pytest.raises(ConfigError, match=message):
        build(cfg.method)


def test_a_missing_argument_is_named():
    cfg = composed()
    OmegaConf.set_struct(cfg, False)
    del cfg.data["source"]
    with pytest.raises(ConfigError, match=r"^data\.source is missing"):
        check_config(cfg)


def test_the_run_directory_is_a_function_of_what_matters():
    def run_dir(*overrides: str) -> str:
        cfg = composed(*overrides)
        check_config(cfg)
        return cfg.run_dir

    base = run_dir("seed=1")
    assert base == run_dir("seed=1") and Path(base).name.startswith("seed1_")
    for same in ("force=true", "logger=none", "callbacks.figures.dpi=50", "trainer.enable_progress_bar=false"):
        assert run_dir("seed=1", same) == base
    for other in ("seed=2", "method.noise=0.02", "optim.lr=0.1", "data.train_limit=100", "method=single"):
        assert run_dir(*([other] if "seed" in other else ["seed=1", other])) != base
    assert run_dir("seed=1", "output_dir=/elsewhere").endswith(base.removeprefix("runs"))


def test_the_group_is_everything_but_the_seed():
    hashes = [config_hash(composed(f"seed={seed}"), without_seed=True) for seed in (0, 1)]
    assert hashes[0] == hashes[1] != config_hash(composed("method.noise=0.5"), without_seed=True)
    twice = composed()
    check_config(twice)
    first = twice.run_id
    check_config(twice)
    assert twice.run_id == first


def test_ensembles_of_finished_runs_group_over_their_seeds():
    def group(seed: int, *runs: str) -> str:
        members = f"method.members_from=[{','.join(runs)}]"
        cfg = composed("method=deep_ensemble", "method.num_members=2", f"seed={seed}", members)
        return config_hash(cfg, without_seed=True)

    assert group(0, "runs/a/seed0_x", "runs/a/seed1_y") == group(1, "runs/a/seed2_z", "runs/a/seed3_w")
    assert group(0, "runs/a/seed0_x", "runs/a/seed1_y") != group(0, "runs/b/seed0_x", "runs/b/seed1_y")


def test_paper_scale_is_the_papers_set_up():
    cfg = composed("experiment=sve_vit", "scale=paper")
    assert (cfg.backbone.model, cfg.data.name, cfg.method.num_members) == (
        "vit_small_patch16_224.dino",
        "flowers102",
        4,
    )
    assert (cfg.optim.lr, cfg.optim.weight_decay, cfg.optim.warmup, cfg.optim.interval) == (1e-3, 0.05, 5, "epoch")
    assert (cfg.trainer.max_epochs, cfg.data.batch_size, cfg.optim.clip_norm) == (10, 16, 1.0)
    assert composed("experiment=sve_vit", "scale=paper", "method=single").optim.lr == 1e-4
    code = composed("experiment=sve_vit", "scale=paper", "method=sve_official_code").method
    assert (code.qkv, code.average) == ("fused", "logits")


def test_every_yaml_file_is_short():
    for path in CONF.rglob("*.yaml"):
        assert len(path.read_text().splitlines()) <= 60, path
        OmegaConf.load(path)
