"""The command line: fast answers, one line for an error, sweeps that go on, and kill -9."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

SMALL = [
    "experiment=sve_vit", "logger=none", "trainer.enable_progress_bar=false", "trainer.max_epochs=4",
    "method.num_members=2", "method.last_blocks=1", "data.train_limit=40", "data.val_limit=30", "data.test_limit=40",
    "data.batch_size=20", "data.ood_limit=20", "data.shift=null",
]  # fmt: skip


def uqbench(*arguments: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "uqbench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"]])
def test_answers_without_loading_anything_heavy(arguments):
    code = (
        "import sys, runpy, atexit; sys.argv = ['uqbench', *sys.argv[1:]];"
        "atexit.register(lambda: print('HEAVY', sorted({'torch', 'lightning', 'timm', 'wandb', 'datasets', 'sklearn',"
        "'matplotlib', 'pydantic', 'numpy'} & set(sys.modules)), file=sys.stderr));"
        "runpy.run_module('uqbench', run_name='__main__')"
    )
    start = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert time.perf_counter() - start < 5  # about half a second alone; the tests share their cores
    assert result.returncode == 0 and "HEAVY []" in result.stderr


def test_help_lists_every_group_and_option():
    text = uqbench("--help").stdout
    root = Path(__file__).parents[1] / "conf"
    for group in ("experiment", "method", "backbone", "data", "scale", "trainer", "optim", "logger", "callbacks"):
        options = ", ".join(sorted(path.stem for path in (root / group).glob("*.yaml")))
        assert f"{group}: {options}" in text


@pytest.mark.parametrize(
    "override, message",
    [
        ("method.noise=much", "uqbench: method.noise must be float, got 'much'\n"),
        ("method.num_members=0", "uqbench: method.num_members must be at least 1, got 0\n"),
        ("data=cifar10", "uqbench: uoft-cs/cifar10: not to be had"),
        ("backbone.weights=nowhere.safetensors", "uqbench: backbone.weights: no file nowhere.safetensors"),
    ],
)
def test_an_error_is_one_line_and_status_2(tmp_path, override, message):
    result = uqbench(override, f"output_dir={tmp_path}", "logger=none")
    assert result.returncode == 2 and result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1 and list(tmp_path.iterdir()) == []


def test_a_run_directory_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    result = uqbench(*SMALL, f"output_dir={tmp_path / 'file'}")
    assert result.returncode == 2 and result.stderr.startswith("uqbench: cannot create ")


def test_a_sweep_goes_on_after_a_failure_and_says_so(tmp_path):
    result = uqbench("-m", *SMALL, "trainer.max_epochs=1", f"output_dir={tmp_path}", "method.noise=0.01,-1", "seed=0,1")
    assert result.returncode == 2 and "2 run(s) of this sweep failed" in result.stderr
    assert len(list(tmp_path.rglob("metrics.json"))) == 2
    assert "coverage at 1 % risk" in result.stdout and "metrics.json" in result.stdout


@pytest.mark.slow
def test_kill_9_and_the_same_command_again(tmp_path):
    command = [sys.executable, "-m", "uqbench", *SMALL]
    undisturbed = tmp_path / "a"
    assert uqbench(*SMALL, f"output_dir={undisturbed}").returncode == 0
    expected = json.loads(next(undisturbed.rglob("metrics.json")).read_text())["metrics"]
    for delay in (0.0, 0.7, 1.5):  # from the first checkpoint on: in the next epochs, in the evaluation
        out = tmp_path / f"b{delay}"
        process = subprocess.Popen([*command, f"output_dir={out}"], stdout=subprocess.DEVNULL)
        while not list(out.rglob("fit.last.ckpt")) and process.poll() is None:
            time.sleep(0.02)
        time.sleep(delay)
        process.kill()
        process.wait()
        assert uqbench(*SMALL, f"output_dir={out}").returncode == 0
        assert json.loads(next(out.rglob("metrics.json")).read_text())["metrics"] == expected
