"""The checkpoint of a stage: enough to continue exactly after the last finished epoch, whenever the process dies."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from uqbench.errors import CheckpointError
from uqbench.files import write_safely
from uqbench.members.checkpoint import save_members
from uqbench.module import UncertaintyModule


class StageCheckpoint(Checkpoint):
    """Writes ``<stage>.best.safetensors`` and ``<stage>.last.ckpt`` after every epoch, best first.

    A process that dies between the two repeats the epoch from the older ``last.ckpt``, to the same result. `finish`
    turns the best weights into the stage's result ``<stage>.safetensors``.

    Args:
        folder: the run's ``stages`` folder.
        stage: the stage's name.
        select: ``best``: the epoch with the highest validation accuracy, and among equals the lowest NLL; ``last``.
    """

    def __init__(self, folder: Path, stage: str, select: Literal["best", "last"] = "best"):
        self.best_path = folder / f"{stage}.best.safetensors"
        self.last_path = folder / f"{stage}.last.ckpt"
        self.final_path = folder / f"{stage}.safetensors"
        self.cost_path = folder / f"{stage}.json"
        self.select = select
        self.best: tuple[float, float] | None = None
        self.seconds = 0.0
        self._started = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = time.perf_counter() - self.seconds

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, UncertaintyModule)
        self.seconds = time.perf_counter() - self._started
        if self.select == "best":
            metrics = {
                name: trainer.callback_metrics[f"{pl_module.prefix}val/{name}"].item() for name in ("accuracy", "nll")
            }
            score = (metrics["accuracy"], -metrics["nll"])
        else:
            score = (float(trainer.current_epoch), 0.0)
        if self.best is None or score > self.best:
            self.best = score
            about = {"epoch": trainer.current_epoch, "seed": pl_module.seed, "method": pl_module.method.name}
            save_members(pl_module.network, self.best_path, about)
        if trainer.current_epoch + 1 == trainer.max_epochs:
            return  # finish() follows at once
        write_safely(self.last_path, lambda path: trainer.save_checkpoint(path, weights_only=False))

    def to_resume(self) -> Path | None:
        """The checkpoint to continue from, if an earlier process left one.

        Raises:
            CheckpointError: if it is damaged.
        """
        if not self.last_path.exists():
            return None
        try:
            torch.load(self.last_path, map_location="cpu", weights_only=True)
        except Exception as error:  # by where the file is cut: pickle's, zip's, torch's or Python's own errors
            raise CheckpointError(
                f"{self.last_path} is damaged ({type(error).__name__}); remove it to start the stage again"
            ) from error
        return self.last_path

    def finish(self) -> None:
        """Notes what the stage cost, names its result, and removes what was only needed to get there."""
        write_safely(self.cost_path, lambda path: path.write_text(json.dumps({"train_seconds": self.seconds})))
        if self.best_path.exists():
            self.best_path.replace(self.final_path)
        self.last_path.unlink(missing_ok=True)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.seconds = state_dict["best"], state_dict["seconds"]
