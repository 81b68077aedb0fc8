"""UncertaintyModule: the one LightningModule. It trains one stage of a method, or evaluates the finished network."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor

from uqbench.errors import TrainingError
from uqbench.members.checkpoint import trained_state
from uqbench.members.network import AnyNetwork, Batch
from uqbench.methods.base import Method, Stage
from uqbench.metrics.proper_scores import Accuracy, NegativeLogLikelihood
from uqbench.optim.recipe import Recipe
from uqbench.predictive import Predictive
from uqbench.seeding import generator, named_seed
from uqbench.task import Classification


class UncertaintyModule(L.LightningModule):
    """A network, the method that trains and reads it, and the data's transforms.

    Args:
        network: what is trained (one stage's part of the network) or evaluated.
        method: gives the loss, the prediction and the parameter groups.
        task: what targets and outputs are.
        data: gives ``train_transform`` and ``eval_transform``.
        optim: the optimiser's recipe.
        seed: the run's seed.
        stage: the stage that is trained; None for evaluation.
        eval_splits: names of the evaluation splits, in the order of the test data loaders.
    """

    def __init__(
        self,
        network: AnyNetwork,
        method: Method,
        task: Classification,
        data: Any,
        optim: Recipe | None = None,
        seed: int = 0,
        stage: Stage | None = None,
        eval_splits: list[str] | None = None,
    ):
        super().__init__()
        self.network = network
        self.method, self.task, self.data, self.optim = method, task, data, optim
        self.seed, self.stage, self.eval_splits = seed, stage, eval_splits or []
        # Metric names of one of several stages carry its name, so that a deep ensemble's curves lie side by side.
        self.prefix = "" if stage is None or stage.name == "fit" else f"{stage.name}/"
        self.val_accuracy, self.val_nll = Accuracy(), NegativeLogLikelihood()

    @property
    def strict_loading(self) -> bool:
        """False: a Lightning checkpoint of this module holds the trained tensors only."""
        return False

    @strict_loading.setter
    def strict_loading(self, value: bool) -> None:
        pass

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The method's loss of one augmented batch; everything random in it is a function of epoch and batch."""
        assert self.stage is not None
        where = (self.stage.stream, "step", self.current_epoch, batch_idx)
        batch = self.data.train_transform(batch, generator(self.seed, *where, "augment"))
        torch.manual_seed(named_seed(self.seed, *where, "dropout"))
        loss = self.method.loss(self.network, self.task, batch)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss.item()} at epoch {self.current_epoch}, batch {batch_idx} of stage "
                f"{self.stage.name}: lower optim.lr, or set optim.clip_norm"
            )
        self.log(f"{self.prefix}train/loss", loss, prog_bar=True, batch_size=len(batch["index"]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Accuracy and NLL of the stage's network, for the choice of the best epoch."""
        predictive = self.predict_step(batch, batch_idx)
        for name, metric in (("accuracy", self.val_accuracy), ("nll", self.val_nll)):
            metric.update(predictive.log_probs, batch["target"])
            self.log(f"{self.prefix}val/{name}", metric, prog_bar=True, on_step=False, on_epoch=True)

    def test_step(  # type: ignore[override]
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> Predictive:
        """The predictive distribution of a batch; the `Evaluation` callback makes figures of it."""
        return self.predict_step(batch, batch_idx)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Predictive:
        """The predictive distribution of a raw batch."""
        return self.method.predict(self.network, self.task, self.data.eval_transform(batch))

    def configure_optimizers(self) -> Any:
        assert self.optim is not None
        epochs, steps = self.trainer.max_epochs, int(self.trainer.estimated_stepping_batches)
        assert epochs is not None
        return self.optim.build(self.method.parameter_groups(self.network), epochs, steps)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        assert self.optim is not None
        self.clip_gradients(optimizer, self.optim.clip_norm, "norm")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the frozen backbone out of the checkpoint."""
        checkpoint["state_dict"] = {f"network.{name}": t for name, t in trained_state(self.network).items()}
