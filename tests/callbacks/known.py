"""A module whose predictions are the batch's own logits, and a test loop over it."""

from __future__ import annotations

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader

from uqbench.predictive import Predictive

CLASSES = 5
SIZES = {"val": 90, "test": 70, "shift/fog/1": 40, "shift/fog/3": 40, "shift/snow/3": 40, "ood/photographs": 30}


class Known(L.LightningModule):
    """Its predictions are the batch's own logits."""

    def __init__(self, splits):
        super().__init__()
        self.eval_splits = splits

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        return Predictive(batch["logits"].transpose(0, 1))


class Spy(Logger):
    def __init__(self):
        self.logged = []

    name = version = "spy"

    def log_metrics(self, metrics, step=None):
        self.logged.append(dict(metrics))

    def log_hyperparams(self, params, *args, **kwargs):
        pass


def make_data(members: int, sizes=SIZES) -> dict[str, dict[str, torch.Tensor]]:
    """Over-confident members: right more often on val and test than under shift."""
    data = {}
    for number, (split, size) in enumerate(sizes.items()):
        stream = torch.Generator().manual_seed(number)
        target = torch.randint(CLASSES, (size,), generator=stream)
        signal = 0.0 if split.startswith("ood/") else 2.0 if split.startswith("shift/") else 4.0
        logits = 3 * torch.randn(size, members, CLASSES, generator=stream)
        logits += signal * torch.nn.functional.one_hot(target, CLASSES)[:, None]
        if split.startswith("ood/"):
            target = torch.full((size,), -1)
        data[split] = {"logits": logits, "target": target, "index": torch.arange(size)}
    return data


def evaluate(data, tmp_path, callbacks, loggers=(), batch_size=16, accelerator="cpu") -> L.Trainer:
    loaders = []
    for columns in data.values():
        rows = [{key: column[i] for key, column in columns.items()} for i in range(len(columns["target"]))]
        loaders.append(DataLoader(rows, batch_size=batch_size))
    trainer = L.Trainer(
        accelerator=accelerator, devices=1, logger=list(loggers), callbacks=callbacks, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.test(Known(list(data)), loaders, verbose=False)
    return trainer


def predictive(columns, temperature=1.0) -> Predictive:
    return Predictive(columns["logits"].transpose(0, 1), temperature=temperature)
