"""Draws what `Evaluation` has measured, into the run directory and into W&B."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import lightning as L
from lightning.pytorch import Callback

from uqbench.callbacks import plots
from uqbench.callbacks.evaluation import Evaluation, shift_figures
from uqbench.callbacks.style import save_figure
from uqbench.errors import ConfigError, check

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from uqbench.metrics.calibration import CalibrationBins

FORMATS = ("png", "pdf", "svg")
# Metric, axis label and factor of the panels against severity.
SHIFT_PANELS = (("accuracy", "accuracy (%)", 100), ("nll", "NLL (nats)", 1), ("ece", "ECE (%)", 100))
SCORE_TITLES = {"max_probability": "1 - max probability"}  # as it is compared: higher is more out of distribution


class Figures(Callback):
    """Reliability, risk-coverage, OOD histograms and metrics against severity, as far as their splits were evaluated.

    Args:
        dpi: Resolution of pixel formats.
        formats: Any of png, pdf, svg; W&B gets the png.
        dirpath: The run directory, pictures go to ``<dirpath>/figures``; the trainer's ``default_root_dir`` if None.

    Attributes:
        paths: The files of the last evaluation.
    """

    def __init__(self, dpi: int = 150, formats: list[str] | None = None, dirpath: str | None = None) -> None:
        super().__init__()
        self.formats = ["png"] if formats is None else list(formats)
        check(dpi > 0, f"dpi must be positive, got {dpi}.")
        check(set(self.formats) <= set(FORMATS), f"formats must be among {', '.join(FORMATS)}, got {self.formats}.")
        self.dpi = dpi
        self.dirpath = dirpath
        self.paths: list[Path] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Finds out before the work that there would be nothing to draw."""
        if stage == "test":
            self._evaluation(trainer)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draws and sends; after every callback's epoch end, whatever their order."""
        self.paths = []
        if not trainer.is_global_zero:
            return
        directory = Path(self.dirpath or trainer.default_root_dir) / "figures"
        for name, figure in draw(self._evaluation(trainer)):
            paths = save_figure(figure, directory / name, self.formats, self.dpi)
            self.paths += paths
            self._send(trainer, name, [path for path in paths if path.suffix == ".png"])

    def _send(self, trainer: L.Trainer, name: str, images: list[Path]) -> None:
        from lightning.pytorch.loggers import WandbLogger

        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and images:
                logger.log_image(f"figures/{name}", [str(path) for path in images], step=trainer.global_step)

    @staticmethod
    def _evaluation(trainer: L.Trainer) -> Evaluation:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Evaluation):
                return callback
        raise ConfigError("callbacks.figures draws what callbacks.evaluation measures; add it or leave out both.")


def draw(evaluation: Evaluation) -> Iterator[tuple[str, Figure]]:
    """Each picture with the name of its file."""
    suite = evaluation.suites.get("test")
    if suite is not None:
        panels = {"raw": _reliability(suite.bins())}
        if suite.temperature is not None:
            title = f"temperature-scaled (T = {suite.temperature:.2f})"
            panels[title] = _reliability(suite.bins(temperature_scaled=True))
        yield "reliability", plots.reliability_diagram(panels)
        curve = suite.risk_coverage()
        yield "risk_coverage", plots.risk_coverage(curve.coverage, curve.risk, evaluation.results["test/aurc"])

    inside = evaluation.scores.get("test", {})
    for split, outside in evaluation.scores.items():
        if split.startswith("ood/") and inside:
            name = split.removeprefix("ood/")
            scores = {
                SCORE_TITLES.get(score, score): plots.Scores(
                    inside[score].numpy(), outside[score].numpy(), evaluation.results[f"{split}/auroc[{score}]"]
                )
                for score in inside
            }
            yield f"ood_{name.replace('/', '_')}", plots.ood_histograms(scores, name)

    if figures := _with_clean(evaluation):
        shifted = {count for split, count in evaluation.counts.items() if split.startswith("shift/")}
        yield "severity", plots.severity_curves(figures, shifted.pop() if len(shifted) == 1 else None)


def _with_clean(evaluation: Evaluation) -> dict[str, dict[str, dict[int, float]]]:
    """The figures under corruption with the clean test figure as severity 0, under their axis labels."""
    figures = shift_figures(evaluation.results)
    panels: dict[str, dict[str, dict[int, float]]] = {}
    for metric, axis, factor in SHIFT_PANELS:
        if metric in figures:
            clean = evaluation.results.get(f"test/{metric}")
            start = {} if clean is None else {0: clean * factor}
            panels[axis] = {
                corruption: start | {severity: value * factor for severity, value in curve.items()}
                for corruption, curve in figures[metric].items()
            }
    return panels


def _reliability(bins: CalibrationBins) -> plots.Reliability:
    return plots.Reliability(bins.confidence.numpy(), bins.accuracy.numpy(), bins.count.numpy())
