"""metrics.json: what a run was, what it cost and what it measured. Written last; a run that has it is finished."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from uqbench.errors import UqbenchError
from uqbench.files import write_safely

SCHEMA = 1
FILE = "metrics.json"
KEYS = {
    "schema", "experiment", "scale", "method", "backbone", "data", "seed", "run_id", "group", "git", "versions",
    "hardware", "conventions", "parameters", "cost", "metrics",
}  # fmt: skip
PACKAGES = ("uqbench", "torch", "lightning", "timm", "torchmetrics", "torchvision", "datasets", "hydra-core", "numpy")


class RecordError(UqbenchError):
    """A record is damaged or of another version."""


def write_record(run_dir: Path, record: dict[str, Any]) -> Path:
    """Writes the record of a run, safely.

    Raises:
        ValueError: if the record's keys are not those of the schema.
        RecordError: if a figure is not a finite number.
    """
    record = {"schema": SCHEMA, **record}
    if record.keys() != KEYS:
        raise ValueError(f"record keys differ from the schema: {sorted(record.keys() ^ KEYS)}")
    wrong = {key: value for key, value in record["metrics"].items() if not math.isfinite(value)}
    if wrong:
        raise RecordError(f"{run_dir}: {len(wrong)} figures are not finite, such as {next(iter(wrong.items()))}")
    path = run_dir / FILE
    text = json.dumps(record, indent=2, sort_keys=True, allow_nan=False) + "\n"
    write_safely(path, lambda temporary: temporary.write_text(text))
    return path


def read_record(run_dir: Path) -> dict[str, Any]:
    """Reads the record of a finished run.

    Raises:
        RecordError: if it is damaged or of another version.
        FileNotFoundError: if the run is not finished.
    """
    path = run_dir / FILE
    text = path.read_text()
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecordError(f"{path} is damaged ({error}); start the same command with force=true") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA or record.keys() != KEYS:
        raise RecordError(f"{path} is not a record of version {SCHEMA}; start the same command with force=true")
    return record


def surroundings() -> dict[str, Any]:
    """The git revision, the package versions and the hardware of this process."""
    import torch

    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    hardware = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    return {"git": _git_revision(), "versions": versions, "hardware": hardware}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _git_revision() -> str | None:
    """The revision of the checkout that this package runs from, with ``+`` if it has changes; None outside one."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        git = ["git", "-C", str(root)]
        revision, changes = (
            subprocess.run([*git, *command], capture_output=True, text=True, check=True).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return revision + ("+" if changes else "")
