"""W&B offline for real: what is on disk is read back record by record."""

from __future__ import annotations

import csv
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from omegaconf import OmegaConf

from uqbench.errors import UqbenchError
from uqbench.loggers import destinations, finishing, wandb_logger, wandb_mode

ROOT = Path(__file__).parents[1]
FIGURES = {
    "test/accuracy": 0.5,
    "ood/svhn/auroc[mutual_information]": 0.75,
    "test/coverage_at_risk[0.01]": 0.25,
    "shift/gaussian_noise/3/nll": 1.5,
}
CONFIG = {"seed": 0, "method": {"name": "sve", "num_members": 4}, "data": {"path": None, "splits": ["val", "test"]}}


@pytest.fixture(autouse=True)
def no_key(monkeypatch, tmp_path):
    """A machine with no key, whatever the developer's has."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def records(path: Path) -> list:
    """The protobuf records of a .wandb file: a LevelDB log of 32 KiB blocks behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, found, pending = path.read_bytes(), 7, [], b""
    while position + 7 <= len(data):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        pending += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            found.append(Record.FromString(pending))
            pending = b""
    return found


def exit_codes(found: list) -> list[int]:
    return [r.exit.exit_code for r in found if r.WhichOneof("record_type") == "exit"]


def finished_records(path: Path) -> list:
    """All records, once the last is there: wandb's own process writes it some milliseconds after `finish` returns."""
    deadline = time.monotonic() + 10
    while not exit_codes(found := records(path)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def the_run(directory: Path) -> list:
    (path,) = (directory / "wandb").glob("offline-run-*/run-*.wandb")
    return finished_records(path)


def history(found: list) -> dict[str, str]:
    items = [item for r in found if r.WhichOneof("record_type") == "history" for item in r.history.item]
    return {"|".join(item.nested_key) or item.key: item.value_json for item in items}


def make(directory: Path, **settings) -> WandbLogger:
    settings = {"group": "digits-sve", "job_type": "sve", "tags": ["sve_vit", "demo", "sve"], **settings}
    return wandb_logger(dirpath=str(directory), run_id=f"id-{directory.name}", name="a run", **settings)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_run_that_raises_is_finished_and_the_next_one_is_its_own(tmp_path, capfd, error):
    import wandb

    first, second = make(tmp_path / "first"), make(tmp_path / "second")
    assert not (tmp_path / "first").exists(), "building a logger must touch nothing"
    with pytest.raises(error), finishing([first], CONFIG):
        assert wandb.run is not None and wandb.run.id == "id-first"
        first.log_metrics({"train/loss": 2.0}, step=1)
        raise error(1)
    assert wandb.run is None
    with finishing([second], CONFIG):
        second.log_metrics(FIGURES, step=7)
        assert destinations([second]) == [str(next((tmp_path / "second/wandb").glob("offline-run-*")))]
    assert wandb.run is None and "WANDB_MODE" not in os.environ

    failed, finished = the_run(tmp_path / "first"), the_run(tmp_path / "second")
    assert exit_codes(failed) == [1] and exit_codes(finished) == [0]
    assert float(history(failed)["train/loss"]) == 2.0 and "train/loss" not in history(finished)
    for key, value in FIGURES.items():  # slashes, brackets and dots are part of the key, not nesting
        assert float(history(finished)[key]) == value
    assert history(finished)["trainer/global_step"] == "7"
    printed = capfd.readouterr()
    assert printed.out == "" and "wandb" not in printed.err


def test_configuration_and_names_are_there_from_the_start(tmp_path):
    logger = make(tmp_path / "run", tags=["sve", "", "sve", "x" * 80])
    with finishing([logger], CONFIG):
        assert logger.experiment.config["method"] == CONFIG["method"] and logger.experiment.config["seed"] == 0
    found = the_run(tmp_path / "run")
    run = next(r.run for r in found if r.WhichOneof("record_type") == "run")
    assert (run.run_id, run.run_group, run.job_type, run.project) == ("id-run", "digits-sve", "sve", "uqbench")
    assert list(run.tags) == ["sve", "x" * 64]
    kinds = [r.WhichOneof("record_type") for r in found]
    updates = {u.key for r in found if r.WhichOneof("record_type") == "config" for u in r.config.update}
    assert {"seed", "method", "data"} <= updates and kinds.index("config") < kinds.index("exit")


def test_a_resumed_run_keeps_its_id(tmp_path):
    for _ in range(2):
        with finishing([make(tmp_path / "run")], CONFIG):
            pass
    parts = list((tmp_path / "run/wandb").glob("offline-run-*/run-id-run.wandb"))
    assert len(parts) == 2 and [exit_codes(finished_records(part)) for part in parts] == [[0], [0]]


def test_mode_follows_the_environment_then_the_key(tmp_path, monkeypatch):
    assert wandb_mode() == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert wandb_mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode() == "disabled"
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY")

    file = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(file))
    file.write_text("default login anonymous password me\n")
    assert wandb_mode() == "offline"
    file.write_text("machine api.wandb.ai login user password " + "0" * 40 + "\n")
    assert wandb_mode() == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert wandb_mode() == "offline"
    file.write_text("not a netrc file")
    assert wandb_mode() == "offline"


def test_disabled_mode_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    logger = make(tmp_path / "run")
    with finishing([logger], CONFIG):
        logger.log_metrics(FIGURES)
    assert not list((tmp_path / "run").rglob("*.wandb"))


def test_a_start_that_fails_is_one_line(tmp_path, monkeypatch):
    import wandb

    def refuse(**_):
        raise wandb.errors.CommError("no\nroute")

    monkeypatch.setattr(wandb, "init", refuse)
    with (
        pytest.raises(UqbenchError, match=r"^W&B did not start: no route; set WANDB_MODE=offline"),
        finishing([make(tmp_path)]),
    ):
        raise AssertionError("the run must not begin")


def test_csv_logger_gets_configuration_and_late_figures(tmp_path):
    with finishing([logger := CSVLogger(tmp_path, name="csv")], CONFIG):
        logger.log_metrics(FIGURES, step=7)
    with (tmp_path / "csv/version_0/metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert {key: float(row[key]) for key in FIGURES} == FIGURES
    assert "num_members" in (tmp_path / "csv/version_0/hparams.yaml").read_text()


@pytest.mark.parametrize("name", ["wandb", "csv", "none"])
def test_shipped_configuration_builds(tmp_path, name):
    from hydra.utils import instantiate

    values = {"run_dir": str(tmp_path / "run"), "run_id": "abc", "group": "g", "seed": 1}
    values |= {key: {"name": key} for key in ("experiment", "scale", "method", "backbone", "data")}
    config = OmegaConf.merge(values, {"logger": OmegaConf.load(ROOT / f"conf/logger/{name}.yaml")})
    loggers = [instantiate(each) for each in config.logger.values()]
    assert [type(each) for each in loggers] == {"wandb": [WandbLogger], "csv": [CSVLogger], "none": []}[name]
    assert not (tmp_path / "run").exists()
    if name == "wandb":
        assert loggers[0]._wandb_init["tags"] == ["experiment", "scale", "method", "backbone", "data"]
        assert (
            loggers[0]._wandb_init["name"] == "method_backbone_data_seed1"
            and loggers[0]._wandb_init["mode"] == "offline"
        )


def test_importing_is_cheap():
    program = "import sys, uqbench.loggers; print({'wandb', 'torch', 'lightning'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert printed.stdout.strip() == "set()"
