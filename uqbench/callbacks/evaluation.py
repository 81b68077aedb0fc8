"""From the predictive distributions of the test loop to figures: one pass per split, nothing of size N x C kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch import Callback
from torch import Tensor

from uqbench.errors import ConfigError, check
from uqbench.files import make_directory, write_safely
from uqbench.metrics.ood import OODScores, ood_metrics
from uqbench.metrics.suite import EvaluationSuite
from uqbench.metrics.temperature import TemperatureFit
from uqbench.predictive import Predictive

SAVED = ("val", "test")


class Evaluation(Callback):
    """Measures every split of ``Trainer.test`` and fits the temperature on the way.

    The module's ``test_step`` returns a `Predictive`, its batches have ``target`` and ``index``, and ``eval_splits``
    names the test dataloaders in their order: ``val`` first, since ``test`` is also measured at the temperature fitted
    there, then ``test``, ``shift/<corruption>/<severity>`` and ``ood/<set>``.

    Args:
        num_bins: Bins of every calibration error.
        save_predictions: Whether to write ``<dirpath>/predictions_<split>.safetensors`` for val and test: ``probs``
            ``[N, C]`` float32 at temperature 1, ``target`` and ``index``.
        dirpath: The run directory; the trainer's ``default_root_dir`` if None.

    Attributes:
        results: Figures by key, in the order of the splits; see `docs/architecture.md`. Complete after the test epoch.
        counts: Examples seen per split.
        suites: The metrics of val and test, for pictures.
        scores: Per test and OOD split, each OOD score ``[N]`` on the CPU, higher = more OOD.
        temperature: What was fitted on val; None before, or without val.
    """

    def __init__(self, num_bins: int = 15, save_predictions: bool = False, dirpath: str | None = None) -> None:
        super().__init__()
        check(num_bins >= 1, f"num_bins must be at least 1, got {num_bins}.")
        self.num_bins = num_bins
        self.save_predictions = save_predictions
        self.dirpath = dirpath
        self._clear([])

    def _clear(self, splits: list[str]) -> None:
        self.splits = splits
        self.results: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.suites: dict[str, EvaluationSuite] = {}
        self.scores: dict[str, dict[str, Tensor]] = {}
        self.temperature: float | None = None
        self._members = 1
        self._fit: TemperatureFit | None = None
        self._all_suites: dict[str, EvaluationSuite] = {}
        self._collectors: dict[str, OODScores] = {}
        self._saved: dict[str, dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forgets an earlier evaluation; checks that the splits have names."""
        splits = list(getattr(pl_module, "eval_splits", []))
        loaders = len(trainer.num_test_batches)
        check(len(splits) == loaders, f"eval_splits has {len(splits)} names for {loaders} test dataloaders.")
        check("val" not in splits[1:], "eval_splits must begin with val: the temperature is fitted there.")
        self._clear(splits)

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Adds a batch to its split."""
        split, predictive = self.splits[dataloader_idx], outputs
        if not isinstance(predictive, Predictive):
            raise ConfigError(f"test_step must return a Predictive, got {type(predictive).__name__}.")
        target = batch["target"]
        if predictive.member_logits.device.type == "mps":  # which has no float64, the type of every sum
            cpu = predictive.member_logits.cpu()
            predictive, target = Predictive(cpu, predictive.average, predictive.temperature), target.cpu()
        self.counts[split] = self.counts.get(split, 0) + len(target)
        self._members = predictive.member_logits.shape[0]

        if split == "test" or split.startswith("ood/"):
            self._collector(split, predictive).update(predictive)
        if split.startswith("ood/"):
            return
        self._suite(split, predictive).update(predictive, target)
        if split == "val":
            self._fit = self._fit or TemperatureFit(predictive.average).to(predictive.member_logits.device)
            self._fit.update(predictive.member_logits, target)
        if self.save_predictions and split in SAVED:
            columns = {"probs": predictive.probs.float(), "target": target, "index": batch["index"]}
            for name, column in columns.items():
                self._saved[split][name].append(column.detach().cpu())

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Builds ``results``, logs them once, and writes the predictions if they are wanted."""
        results: dict[str, float] = {}
        for split in self.splits:
            if split in self._all_suites:
                results |= {f"{split}/{key}": value for key, value in self._all_suites[split].compute().items()}
            if split == "test" and (temperature := self._fitted()) is not None:
                results["test/temperature"] = temperature
        results |= shift_means(results)
        results |= self._compare_ood()
        self.results = results
        self.suites = {split: suite for split, suite in self._all_suites.items() if split in SAVED}
        self._all_suites, self._collectors = {}, {}

        for logger in trainer.loggers:
            logger.log_metrics(results, step=trainer.global_step)
        if trainer.is_global_zero:
            for split, columns in self._saved.items():
                directory = Path(self.dirpath or trainer.default_root_dir)
                _write(directory / f"predictions_{split}.safetensors", columns)
        self._saved.clear()

    def _suite(self, split: str, predictive: Predictive) -> EvaluationSuite:
        if split not in self._all_suites:
            members, _, classes = predictive.member_logits.shape
            suite = EvaluationSuite(
                classes,
                members,
                full=split in SAVED,
                num_bins=self.num_bins,
                temperature=self._fitted() if split == "test" else None,
            )
            self._all_suites[split] = suite.to(predictive.member_logits.device)
        return self._all_suites[split]

    def _collector(self, split: str, predictive: Predictive) -> OODScores:
        if split not in self._collectors:
            self._collectors[split] = OODScores().to(predictive.member_logits.device)
        return self._collectors[split]

    def _fitted(self) -> float | None:
        """The temperature; asked for when the first batch of test comes, and val is therefore over."""
        if self.temperature is None and self._fit is not None:
            self.temperature = float(self._fit.compute())
        return self.temperature

    def _compare_ood(self) -> dict[str, float]:
        """Every OOD split against test; without a test split there is nothing to compare with."""
        for split, collector in self._collectors.items():
            self.scores[split] = {
                name: score.cpu()
                for name, score in collector.compute().items()
                # One member has none: an AUROC of 0.5 would read as a measurement.
                if self._members > 1 or name != "mutual_information"
            }
        if "test" not in self.scores:
            return {}
        return {
            f"{split}/{key}": float(value)
            for split in self.scores
            if split.startswith("ood/")
            for key, value in ood_metrics(self.scores["test"], self.scores[split]).items()
        }


def shift_figures(results: Mapping[str, float]) -> dict[str, dict[str, dict[int, float]]]:
    """The figures under corruption as ``{metric: {corruption: {severity: value}}}``."""
    figures: dict[str, dict[str, dict[int, float]]] = {}
    for key, value in results.items():
        parts = key.split("/", 3)
        if parts[0] == "shift" and len(parts) == 4 and parts[1] != "severity":
            _, corruption, severity, metric = parts
            figures.setdefault(metric, {}).setdefault(corruption, {})[int(severity)] = value
    return figures


def shift_means(results: Mapping[str, float]) -> dict[str, float]:
    """``shift/mean/<metric>`` over corruptions and severities, ``shift/severity/<s>/<metric>`` over corruptions.

    Unweighted: every corruption and severity counts the same, as in CIFAR-10-C.
    """
    figures = shift_figures(results)
    means = {}
    for metric, curves in figures.items():
        means[f"shift/mean/{metric}"] = _mean(value for curve in curves.values() for value in curve.values())
    severities = sorted({severity for curves in figures.values() for curve in curves.values() for severity in curve})
    for severity in severities:
        for metric, curves in figures.items():
            means[f"shift/severity/{severity}/{metric}"] = _mean(c[severity] for c in curves.values() if severity in c)
    return means


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def _write(path: Path, columns: Mapping[str, list[Tensor]]) -> None:
    from safetensors.torch import save_file

    tensors = {name: torch.cat(parts).contiguous() for name, parts in columns.items()}
    make_directory(path.parent)
    write_safely(path, lambda temporary: save_file(tensors, temporary))
