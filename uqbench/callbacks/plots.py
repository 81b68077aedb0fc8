"""The pictures of an evaluation as pure functions: arrays in, a matplotlib ``Figure`` out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from uqbench.callbacks import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Reliability:
    """Equal-width confidence bins of one predictor: mean confidence, accuracy and number of examples per bin."""

    confidence: ArrayLike
    accuracy: ArrayLike
    count: ArrayLike


@dataclass(frozen=True)
class Scores:
    """One out-of-distribution score on the in-distribution and the out-of-distribution examples."""

    inside: ArrayLike
    outside: ArrayLike
    auroc: float | None = None


def reliability_diagram(panels: Mapping[str, Reliability], split: str = "test") -> Figure:
    """Accuracy against confidence per bin, one column per predictor, with the share of examples below.

    Bars reach up to the lower of a bin's accuracy and mean confidence, their gap on top; empty bins are left out.
    """
    from matplotlib.patches import Patch

    with style.style():
        width = style.COLUMN if len(panels) == 1 else style.TEXT
        figure = style.new_figure(width, 4.0)
        grid = figure.subplots(
            2, len(panels), sharex=True, sharey="row", squeeze=False, gridspec_kw={"height_ratios": [3, 1]}
        )
        for column, (title, panel) in enumerate(panels.items()):
            _reliability_panel(grid[0, column], grid[1, column], title, panel)
        grid[0, 0].set_ylabel("accuracy")
        grid[1, 0].set_ylabel("examples (%)")
        # Entries of its own: a colour that no bin needs would be missing from the bars' own labels.
        named = {
            "accuracy": style.BLUE,
            "confidence above accuracy": style.ORANGE,
            "accuracy above confidence": style.SKY,
        }
        entries: list[Any] = [Patch(color=colour, label=label) for label, colour in named.items()]
        entries += grid[0, 0].lines + grid[1, 0].lines
        figure.legend(handles=entries, loc="outside lower center", ncols=2 if len(panels) == 1 else 3)
        total = int(np.sum(np.asarray(next(iter(panels.values())).count)))
        figure.suptitle(f"Reliability on {split} ({total:,} examples)", x=0.01, ha="left")
        return figure


def _reliability_panel(above: Axes, below: Axes, title: str, panel: Reliability) -> None:
    confidence, accuracy, count = (np.asarray(a, float) for a in (panel.confidence, panel.accuracy, panel.count))
    width = 1 / len(count)
    left = np.arange(len(count)) * width
    used, total = count > 0, max(count.sum(), 1)
    ece = float((count[used] * np.abs(accuracy - confidence)[used]).sum() / total)
    mean_accuracy = float((count[used] * accuracy[used]).sum() / total)
    mean_confidence = float((count[used] * confidence[used]).sum() / total)

    bar: dict[str, Any] = {"width": width, "align": "edge", "linewidth": 0.5, "edgecolor": "white"}
    low, high, over = np.minimum(accuracy, confidence), np.maximum(accuracy, confidence), confidence > accuracy
    above.bar(left[used], low[used], color=style.BLUE, **bar)
    for mask, colour in ((over, style.ORANGE), (~over, style.SKY)):
        some = used & mask
        above.bar(left[some], (high - low)[some], bottom=low[some], color=colour, **bar)
    above.plot([0, 1], [0, 1], color=style.GREY, linestyle=(0, (4, 3)), linewidth=0.9, label="perfect calibration")
    means = f"mean accuracy {mean_accuracy:.3f}, mean confidence {mean_confidence:.3f}"
    above.set(xlim=(0, 1), ylim=(0, 1), title=f"{title}: ECE {100 * ece:.2f} %\n{means}")

    below.bar(left, 100 * count / total, color=style.LIGHT_GREY, **bar)
    below.axvline(mean_accuracy, color=style.BLUE, linewidth=1.2, label="mean accuracy")
    dashed: dict[str, Any] = {"linewidth": 1.2, "linestyle": (0, (3, 1.5))}
    below.axvline(mean_confidence, color=style.ORANGE, label="mean confidence", **dashed)
    below.set_xlabel("confidence")


def risk_coverage(coverage: ArrayLike, risk: ArrayLike, aurc: float | None = None, split: str = "test") -> Figure:
    """Error among the most confident examples against how many are answered, between the best and a random order.

    Args:
        coverage: Shares of the examples that are answered, rising to 1.
        risk: The error rate among them; its last entry is the error rate on all.
        aurc: The area under the curve, printed in the legend if given.
        split: What the curve was measured on.
    """
    coverage, risk = np.asarray(coverage, float), np.asarray(risk, float)
    error = float(risk[-1])
    # The best order answers every right example first, so errors begin at coverage = accuracy.
    ideal_coverage = np.concatenate([[0.0], np.linspace(1 - error, 1, 200)])
    ideal = np.maximum(0, ideal_coverage - (1 - error)) / np.maximum(ideal_coverage, 1e-12)
    with style.style():
        figure = style.new_figure(style.COLUMN, 2.6)
        axes = figure.subplots()
        best = np.interp(coverage, ideal_coverage, ideal)
        axes.fill_between(100 * coverage, 100 * best, 100 * risk, color=style.BLUE, alpha=0.08, linewidth=0)
        label = "by confidence" if aurc is None else f"by confidence (AURC {100 * aurc:.2f} %)"
        random = f"random order ({100 * error:.2f} %)"
        axes.axhline(100 * error, color=style.GREY, linestyle=(0, (1, 1.5)), label=random)
        axes.plot(100 * coverage, 100 * risk, color=style.BLUE, label=label)
        axes.plot(100 * ideal_coverage, 100 * ideal, color=style.GREEN, linestyle=(0, (4, 2)), label="best order")
        axes.set(xlabel="coverage (% of examples answered)", ylabel="risk (% wrong among them)", xlim=(0, 100))
        axes.set_ylim(0, max(100 * max(error, float(risk.max())) * 1.4, 0.1))  # room for the legend over the curves
        axes.legend(loc="upper left", borderaxespad=0.2)
        axes.set_title(f"Selective prediction on {split} ({len(risk):,} examples)")
        return figure


def ood_histograms(scores: Mapping[str, Scores], name: str, split: str = "test", bins: int = 40) -> Figure:
    """How each score spreads in and out of distribution, one panel per score; each histogram sums to 100 %."""
    with style.style():
        count = len(scores)
        figure = style.new_figure(style.COLUMN if count == 1 else style.TEXT, 2.7)
        grid = figure.subplots(1, count, squeeze=False)[0]
        for axes, (score, values) in zip(grid, scores.items(), strict=True):
            inside, outside = np.asarray(values.inside, float), np.asarray(values.outside, float)
            limits = _limits(inside, outside)
            for sample, colour, label in ((inside, style.BLUE, split), (outside, style.VERMILLION, name)):
                sample, share = np.clip(sample, *limits), np.full(len(sample), 100 / max(len(sample), 1))
                label = f"{label} ({len(sample):,} examples)"
                shared: dict[str, Any] = {"bins": bins, "range": limits, "weights": share, "color": colour}
                axes.hist(sample, alpha=0.25, **shared)
                axes.hist(sample, histtype="step", linewidth=1.1, label=label, **shared)
            auroc = "" if values.auroc is None else f"\nAUROC {100 * values.auroc:.1f} %"
            axes.set_title(score.replace("_", " ") + auroc)
            unit = "probability" if "probability" in score else "nats"
            axes.set_xlabel(unit + (", last bin: and above" if limits[1] < max(inside.max(), outside.max()) else ""))
        grid[0].set_ylabel("share of examples (%)")
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        figure.suptitle(f"Out of distribution: {name} against {split}", x=0.01, ha="left")
        return figure


def _limits(inside: np.ndarray, outside: np.ndarray) -> tuple[float, float]:
    """The range of both samples, cut where a long upper tail would squeeze everything else into a few bins."""
    both = np.concatenate([inside, outside])
    low, high, most = float(both.min()), float(both.max()), float(np.quantile(both, 0.98))
    high = most if most > low and high - low > 1.5 * (most - low) else high
    return low, high if high > low else low + 1e-6  # a constant score still gets a bin


def severity_curves(
    metrics: Mapping[str, Mapping[str, Mapping[int, float]]], num_examples: int | None = None, split: str = "test"
) -> Figure:
    """Metrics against corruption severity: a thin line per corruption and a thick one for their mean.

    Args:
        metrics: ``{metric: {corruption: {severity: value}}}``; severity 0 is the clean split, the same for all.
            The metric's name is its axis label.
        num_examples: Examples per severity.
        split: The clean split.
    """
    with style.style():
        count = len(metrics)
        figure = style.new_figure(style.COLUMN if count == 1 else style.TEXT, 2.7)
        grid = figure.subplots(1, count, squeeze=False)[0]
        names = sorted({corruption for curves in metrics.values() for corruption in curves})
        # Beyond six, colours are no longer told apart, and what matters is the spread.
        colours = dict(zip(names, style.CYCLE, strict=False)) if len(names) <= len(style.CYCLE) else {}
        for axes, (metric, curves) in zip(grid, metrics.items(), strict=True):
            for corruption, curve in curves.items():
                points = sorted(curve.items())
                colour = colours.get(corruption, style.LIGHT_GREY)
                label = corruption.replace("_", " ") if colours else None
                line: dict[str, Any] = {"color": colour, "linewidth": 0.9, "marker": ".", "markersize": 3}
                axes.plot(*zip(*points, strict=True), label=label, **line)
            axes.plot(*_mean_curve(list(curves.values())), color=style.BLACK, linewidth=2.2, label="mean")
            axes.set(xlabel="severity", ylabel=metric)
            severities = sorted({severity for curve in curves.values() for severity in curve})
            axes.set_xticks(severities)
        handles, labels = grid[0].get_legend_handles_labels()
        if not colours:
            handles, labels = [grid[0].lines[0], *handles], [f"each of {len(names)} corruptions", *labels]
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 7))
        size = "" if num_examples is None else f" ({num_examples:,} examples per severity)"
        figure.suptitle(f"Corrupted {split}{size}; severity 0 is clean", x=0.01, ha="left")
        return figure


def _mean_curve(curves: Sequence[Mapping[int, float]]) -> tuple[list[int], list[float]]:
    """The unweighted mean over the corruptions that have each severity."""
    severities = sorted({severity for curve in curves for severity in curve})
    return severities, [float(np.mean([curve[s] for curve in curves if s in curve])) for s in severities]
