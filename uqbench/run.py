"""One run, top to bottom: configuration, network, data, stages, evaluation, record."""

from __future__ import annotations

import json
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from omegaconf import DictConfig, OmegaConf

from uqbench.callbacks.checkpoint import StageCheckpoint
from uqbench.callbacks.evaluation import Evaluation
from uqbench.config import build, check_config, plain_config
from uqbench.cost import count_flops, count_parameters, peak_memory_mb, time_per_example
from uqbench.files import make_directory, write_safely
from uqbench.loggers import finishing
from uqbench.members.checkpoint import load_members
from uqbench.members.network import AnyNetwork
from uqbench.methods.base import Method, Stage
from uqbench.metrics.suite import CONVENTIONS
from uqbench.module import UncertaintyModule
from uqbench.record import FILE, read_record, surroundings, write_record
from uqbench.task import Classification

log = logging.getLogger(__name__)
COST_ROWS = 64
# Lightning's notices (devices found, tips, epochs reached) are no news to who typed the command; its warnings are.
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message=".*does not have many workers.*")
warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")


def run(cfg: DictConfig) -> dict[str, Any]:
    """Does what the configuration says, from where an earlier, interrupted process left it.

    Args:
        cfg: the composed configuration; ``run_dir``, ``run_id`` and ``group`` are filled in.

    Returns:
        The run's record, see `record`.

    Raises:
        UqbenchError: for everything that the user can put right.
    """
    check_config(cfg)
    run_dir = Path(cfg.run_dir)
    if cfg.force:
        _set_aside(run_dir)
    if (run_dir / FILE).exists():
        log.info("already finished: %s (force=true runs it again)", run_dir)
        return read_record(run_dir)

    method: Method = build(cfg.method)
    optim = build(cfg.optim)
    data = build(cfg.data)
    task = Classification(data.num_classes)
    network = method.prepare(lambda seed: build(cfg.backbone, seed=seed), task, cfg.seed)
    data.setup()

    stages_dir = make_directory(run_dir / "stages")
    write_safely(run_dir / "config.yaml", lambda path: path.write_text(OmegaConf.to_yaml(cfg, resolve=True)))
    loggers = list(build(cfg.logger).values())
    with finishing(loggers, plain_config(cfg)):
        for stage in method.stages():
            fit(stage, network, method, task, data, optim, cfg, stages_dir, loggers)
        evaluation = evaluate(network, method, task, data, cfg, loggers)
        record = {
            **{key: cfg[key].name for key in ("experiment", "scale", "method", "backbone")},
            "data": data.describe(),
            **{key: cfg[key] for key in ("seed", "run_id", "group")},
            **surroundings(),
            "conventions": {**CONVENTIONS, "average": method.average, "select": cfg.select},
            "parameters": count_parameters(network),
            "cost": measure_cost(network, method, task, data, stages_dir),
            "metrics": evaluation.results,
        }
        write_record(run_dir, record)
    return record


def fit(
    stage: Stage,
    network: AnyNetwork,
    method: Method,
    task: Classification,
    data: Any,
    optim: Any,
    cfg: DictConfig,
    stages_dir: Path,
    loggers: list,
) -> None:
    """Trains one stage, or loads it if an earlier process finished it."""
    part = stage.part(network)
    checkpoint = StageCheckpoint(stages_dir, stage.name, cfg.select)
    finished = stage.done or checkpoint.final_path
    if not finished.exists():
        module = UncertaintyModule(part, method, task, data, optim, cfg.seed, stage)
        trainer = _trainer(cfg, [checkpoint], loggers)
        members = {"num_members": part.num_members, "member_batches": method.member_batches}
        loader = data.train_loader(cfg.seed, stage.stream, **members)
        resume = checkpoint.to_resume()
        if resume:
            log.info("stage %s continues from %s", stage.name, resume)
        trainer.fit(module, loader, data.eval_loader("val"), ckpt_path=resume, weights_only=True)
        checkpoint.finish()
    load_members(part, finished)


def evaluate(
    network: AnyNetwork, method: Method, task: Classification, data: Any, cfg: DictConfig, loggers: list
) -> Evaluation:
    """One pass over every evaluation split."""
    callbacks = build(cfg.callbacks)
    module = UncertaintyModule(network, method, task, data, seed=cfg.seed, eval_splits=data.eval_splits)
    trainer = _trainer(cfg, list(callbacks.values()), loggers)
    trainer.test(module, [data.eval_loader(split) for split in data.eval_splits], verbose=False)
    return callbacks.evaluation


def measure_cost(
    network: AnyNetwork, method: Method, task: Classification, data: Any, stages_dir: Path
) -> dict[str, float]:
    """Training time, and time, operations and memory of a prediction, on the first test rows."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network.to(device).eval()
    rows = next(iter(data.eval_loader("test")))
    batch = data.eval_transform({key: value[:COST_ROWS].to(device) for key, value in rows.items()})
    files = [stages_dir / f"{stage.name}.json" for stage in method.stages()]
    return {
        "train_seconds": sum(json.loads(file.read_text())["train_seconds"] for file in files if file.exists()),
        "ms_per_example": time_per_example(lambda: method.predict(network, task, batch), len(batch["index"])),
        "flops_per_example": count_flops(network, batch),
        "peak_memory_mb": peak_memory_mb(),
    }


def _trainer(cfg: DictConfig, callbacks: list, loggers: list) -> L.Trainer:
    return build(
        cfg.trainer, callbacks=callbacks, logger=loggers or False, default_root_dir=cfg.run_dir,
        enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks), enable_model_summary=False,
    )  # fmt: skip


def _set_aside(run_dir: Path) -> None:
    """Moves an earlier run out of the way, so that nothing it wrote is lost."""
    if run_dir.exists():
        taken = 1
        while (aside := run_dir.with_name(f"{run_dir.name}.old{taken}")).exists():
            taken += 1
        os.replace(run_dir, aside)
        log.info("moved the earlier run to %s", aside)
