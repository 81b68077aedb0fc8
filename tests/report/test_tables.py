"""Collecting records and their means over seeds."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import scipy.stats

from uqbench.errors import DataError
from uqbench.record import write_record
from uqbench.report.collect import collect
from uqbench.report.tables import cell, mean_and_interval, page


def save(folder, seed: int, accuracy: float, method: str = "sve", **metrics: float):
    folder.mkdir(parents=True)
    counts = {"train": 200, "val": 20, "test": 1300}
    record = {
        "experiment": "sve_vit", "scale": "demo", "method": method, "backbone": "vit", "seed": seed,
        "data": {"name": "digits", "title": "Digits", "counts": counts, "shift": None},
        "run_id": f"{method}{seed}", "group": method, "git": None, "versions": {"torch": "2"}, "conventions": {},
        "hardware": {"cpu": "a CPU", "cores": 2, "device": "cpu"}, "parameters": {"trainable": 1000},
        "cost": {"flops_per_example": 2e6}, "metrics": {"test/accuracy": accuracy, **metrics},
    }  # fmt: skip
    write_record(folder, record)


def test_interval_is_students():
    values = [0.1, 0.4, 0.35, 0.9]
    mean, half = mean_and_interval(values)
    low, high = scipy.stats.t.interval(0.95, 3, loc=np.mean(values), scale=scipy.stats.sem(values))
    assert mean == pytest.approx(np.mean(values)) and (mean - half, mean + half) == pytest.approx((low, high))
    assert mean_and_interval([0.5]) == (0.5, None)


def test_cells():
    assert cell([], 1) == "-" and cell([0.5], 100) == "50.00" and cell([0.25, 0.25], 1) == "0.250 ± 0.000"


def test_groups_are_runs_that_differ_in_the_seed(tmp_path):
    for seed, accuracy in ((1, 0.9), (0, 0.8)):
        save(tmp_path / f"seed{seed}", seed, accuracy)
    save(tmp_path / "other", 0, 0.7, method="single")
    save(tmp_path / "seed0.old1", 0, 0.1)
    single, sve = collect([tmp_path])
    assert (sve.key, sve.seeds, sve.values("test/accuracy")) == ("sve", [0, 1], [0.8, 0.9])
    assert single.seeds == [0] and single.values("test/nll") == []
    text = page([sve, single])
    assert "| | sve (2 seeds) | single (1 seed) |" in text and "| accuracy % | 85.00 ± 63.53 | 70.00 |" in text
    assert "200 training, 20 validation and 1,300 test rows" in text and "NLL" not in text


def test_nothing_found_and_found_twice(tmp_path):
    with pytest.raises(DataError, match="no finished run below"):
        collect([tmp_path])
    save(tmp_path / "a", 0, 0.8)
    save(tmp_path / "b", 0, 0.8)
    with pytest.raises(DataError, match="two runs of sve with seed 0"):
        collect([tmp_path])


def test_command(tmp_path):
    save(tmp_path / "a", 0, 0.8)
    command = [sys.executable, "-m", "uqbench.report", str(tmp_path), "--out", str(tmp_path / "table.md")]
    subprocess.run(command, check=True)
    assert "| accuracy % | 80.00 |" in (tmp_path / "table.md").read_text()
    empty = subprocess.run([*command[:3], str(tmp_path / "none")], capture_output=True, text=True)
    assert empty.returncode == 2 and empty.stderr.startswith("uqbench.report: no finished run below")
