"""Whole runs on the embedded data, cut small: records, resumption, and one clear line for what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from uqbench import run as run_module
from uqbench.__main__ import CONF
from uqbench.callbacks.checkpoint import StageCheckpoint
from uqbench.errors import CheckpointError, TrainingError
from uqbench.record import KEYS, RecordError, read_record
from uqbench.run import run

SMALL = [
    "logger=none", "trainer.enable_progress_bar=false", "trainer.accelerator=cpu", "trainer.max_epochs=3",
    "data.train_limit=40", "data.val_limit=30", "data.test_limit=40", "data.batch_size=20", "data.ood_limit=20",
    "data.shift.corruptions=[contrast]", "data.shift.severities=[5]", "data.shift.limit=20",
]  # fmt: skip
SVE = [*SMALL, "method.num_members=2", "method.last_blocks=1"]
SINGLE = [*SMALL, "method=single", "method.train=head"]
DEEP = [*SMALL, "method=deep_ensemble", "method.num_members=2", "method.train=head"]


def config(tmp_path: Path, *overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=[*overrides, f"output_dir={tmp_path}"])


class Killed(BaseException):
    """Stands for kill -9: nothing of ours handles it."""


def test_a_record_is_complete(tmp_path):
    cfg = config(tmp_path, *SVE)
    record = run(cfg)
    assert record.keys() | {"schema"} == KEYS and read_record(Path(cfg.run_dir))["metrics"] == record["metrics"]
    assert (record["experiment"], record["scale"], record["method"], record["backbone"]) == (
        "sve_vit",
        "demo",
        "sve",
        "vit",
    )
    assert record["data"]["counts"]["test"] == 40 and record["data"]["fingerprint"]
    metrics = record["metrics"]
    for key in ("test/accuracy", "test/temperature_scaled/ece", "shift/contrast/5/nll", "shift/mean/accuracy",
                "ood/photographs/auroc[mutual_information]", "test/disagreement",
                "test/coverage_at_risk[0.005]"):  # fmt: skip
        assert key in metrics
    added = 2 * 15 * 96 + 96 * 10 + 10  # one block's values and biases for two members, and one more head
    assert record["parameters"]["added"] == added
    assert record["cost"]["flops_per_example"] > 0 and record["cost"]["train_seconds"] > 0
    stages = sorted(path.name for path in (Path(cfg.run_dir) / "stages").iterdir())
    assert stages == ["fit.json", "fit.safetensors"]
    assert sorted(p.name for p in (Path(cfg.run_dir) / "figures").iterdir()) == [
        "ood_photographs.png", "reliability.png", "risk_coverage.png", "severity.png",
    ]  # fmt: skip
    # A finished run is not run again; forced, it is, to the same figures, and the earlier one is kept.
    (Path(cfg.run_dir) / "marker").write_text("first")
    assert run(config(tmp_path, *SVE))["metrics"] == metrics
    assert (Path(cfg.run_dir) / "marker").exists()
    assert run(config(tmp_path, *SVE, "force=true"))["metrics"] == metrics
    assert not (Path(cfg.run_dir) / "marker").exists()
    assert (Path(f"{cfg.run_dir}.old1") / "marker").exists()


@pytest.mark.parametrize("moment", ["before_best", "between", "after_last"])
@pytest.mark.parametrize("overrides", [SVE, DEEP], ids=["sve", "deep_ensemble"])
def test_an_interrupted_run_continues_to_the_same_figures(tmp_path, monkeypatch, overrides, moment):
    undisturbed = run(config(tmp_path / "a", *overrides))["metrics"]
    from uqbench.callbacks import checkpoint

    original, saves = StageCheckpoint.on_train_epoch_end, []

    def interrupted(self, trainer, pl_module):
        saves.append(self.final_path.name)
        last_stage = "fit.safetensors" if overrides is SVE else "member-1.safetensors"
        hit = trainer.current_epoch == 1 and saves[-1] == last_stage
        if hit and moment == "before_best":
            raise Killed
        if hit and moment == "between":
            monkeypatch.setattr(checkpoint, "write_safely", lambda *_: (_ for _ in ()).throw(Killed()))
        original(self, trainer, pl_module)
        if hit and moment == "after_last":
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(StageCheckpoint, "on_train_epoch_end", interrupted)
        with pytest.raises(Killed):
            run(config(tmp_path / "b", *overrides))
    monkeypatch.undo()
    monkeypatch.setenv("UQBENCH_CACHE", str(tmp_path / "cache"))
    trained = []
    record = run_module.fit

    def counted(stage, *args):
        trained.append(stage.name)
        return record(stage, *args)

    monkeypatch.setattr(run_module, "fit", counted)
    assert run(config(tmp_path / "b", *overrides))["metrics"] == undisturbed
    assert trained == (["fit"] if overrides is SVE else ["member-0", "member-1"])


def test_a_finished_stage_is_not_trained_again(tmp_path, monkeypatch):
    evaluate = run_module.evaluate
    monkeypatch.setattr(run_module, "evaluate", lambda *_: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        run(config(tmp_path, *DEEP))
    monkeypatch.setattr(run_module, "evaluate", evaluate)
    import lightning as L

    monkeypatch.setattr(L.Trainer, "fit", lambda *_, **__: pytest.fail("trained again"))
    assert run(config(tmp_path, *DEEP))["metrics"]


def test_an_ensemble_of_finished_single_runs(tmp_path):
    runs = []
    for seed in (0, 1):
        cfg = config(tmp_path, *SINGLE, f"seed={seed}")
        run(cfg)
        runs.append(cfg.run_dir)
    assembled = run(config(tmp_path, *DEEP, f"method.members_from=[{','.join(runs)}]"))["metrics"]
    singles = [read_record(Path(r))["metrics"]["test/nll"] for r in runs]
    assert assembled["test/member_nll"] == pytest.approx(sum(singles) / 2, abs=1e-6)
    assert assembled["test/nll"] <= assembled["test/member_nll"]
    # And member 0 of the ensemble trained in one go is the single network of its seed.
    trained = config(tmp_path, *DEEP)
    run(trained)
    from safetensors.torch import load_file

    first = load_file(Path(trained.run_dir) / "stages" / "member-0.safetensors")
    single = load_file(Path(runs[0]) / "stages" / "fit.safetensors")
    assert all(torch.equal(first[name], single[name]) for name in single)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(TrainingError, match=r"the loss is nan at epoch \d, batch \d of stage fit: lower optim\.lr"):
        run(config(tmp_path, *SMALL, "method=single", "optim.lr=1e20", "optim.clip_norm=null"))
    assert not list(tmp_path.rglob("metrics.json"))


@pytest.mark.parametrize("mode", ["independent", "bootstrap"])
def test_members_may_have_their_own_batches(tmp_path, mode):
    record = run(config(tmp_path, *SVE, f"method.member_batches={mode}"))
    assert record["metrics"]["test/nll"] > 0


def test_damaged_files_are_one_line_and_say_what_to_do(tmp_path):
    cfg = config(tmp_path, *SINGLE)
    run(cfg)
    path = Path(cfg.run_dir) / "metrics.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(RecordError, match=r"damaged .* force=true"):
        run(config(tmp_path, *SINGLE))
    path.unlink()
    weights = Path(cfg.run_dir) / "stages" / "fit.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])
    with pytest.raises(CheckpointError, match=r"damaged .* remove it to train that stage again"):
        run(config(tmp_path, *SINGLE))
    weights.unlink()
    (Path(cfg.run_dir) / "stages" / "fit.last.ckpt").write_bytes(b"truncated")
    with pytest.raises(CheckpointError, match=r"fit\.last\.ckpt is damaged .* remove it"):
        run(config(tmp_path, *SINGLE))


def test_checkpoints_on_the_way_hold_no_frozen_weights(tmp_path, monkeypatch):
    finish = StageCheckpoint.finish
    sizes = {}

    def keep(self):
        state = torch.load(self.last_path, weights_only=True)
        sizes["tensors"] = set(state["state_dict"])
        finish(self)

    monkeypatch.setattr(StageCheckpoint, "finish", keep)
    run(config(tmp_path, *SVE))
    assert sizes["tensors"] and not any("base_layer" in name or "norm" in name for name in sizes["tensors"])


def test_config_is_written_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "fit", lambda *_: (_ for _ in ()).throw(Killed()))
    cfg = config(tmp_path, *SINGLE)
    with pytest.raises(Killed):
        run(cfg)
    assert "max_epochs: 3" in (Path(cfg.run_dir) / "config.yaml").read_text()


def test_metrics_are_json_numbers(tmp_path):
    cfg = config(tmp_path, *SINGLE)
    run(cfg)
    record = json.loads((Path(cfg.run_dir) / "metrics.json").read_text())
    assert all(isinstance(value, float) for value in record["metrics"].values())
    assert "ood/photographs/auroc[mutual_information]" not in record["metrics"]
