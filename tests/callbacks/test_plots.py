"""The drawing functions: what is drawn is what was given, and nothing stays behind."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import matplotlib
import numpy as np
import pytest

from uqbench.callbacks import plots, style
from uqbench.errors import UqbenchError


def lines(axes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {line.get_label(): tuple(np.asarray(a, float) for a in line.get_data()) for line in axes.lines}


def texts(figure) -> str:
    found = [figure.get_suptitle()]
    for axes in figure.axes:
        found += [axes.get_title("left"), axes.get_xlabel(), axes.get_ylabel()]
        found += [text.get_text() for text in (axes.get_legend().get_texts() if axes.get_legend() else [])]
    for legend in figure.legends:
        found += [text.get_text() for text in legend.get_texts()]
    return "\n".join(found)


def test_reliability_shows_bins_gaps_and_counts():
    # Four bins: empty, over-confident by 0.2, exact, under-confident by 0.1; NaN where a bin is empty.
    nan = float("nan")
    panel = plots.Reliability([nan, 0.4, 0.6, 0.8], [nan, 0.2, 0.6, 0.9], [0, 100, 200, 700])
    figure = plots.reliability_diagram({"raw": panel, "temperature-scaled (T = 1.50)": panel})
    above, _, below, _ = figure.axes
    tops = sorted({round(bar.get_y() + bar.get_height(), 6) for bar in above.patches})
    assert tops == [0.2, 0.4, 0.6, 0.8, 0.9]
    assert [bar.get_height() for bar in below.patches] == pytest.approx([0, 10, 20, 70])
    shown = texts(figure)
    colours = {h.get_label(): h.get_facecolor() for h in figure.legends[0].legend_handles[:3]}
    assert len(set(colours.values())) == 3
    assert "raw: ECE 9.00 %" in shown  # 0.1 * 0.2 + 0.7 * 0.1
    assert "mean accuracy 0.770" in shown and "mean confidence 0.720" in shown and "1,000 examples" in shown


def test_risk_coverage_lies_between_oracle_and_random():
    wrong = np.array([0, 0, 0, 1, 0, 0, 1, 0, 0, 0])
    ranks = np.arange(1, 11)
    figure = plots.risk_coverage(ranks / 10, wrong.cumsum() / ranks, aurc=0.125)
    drawn = lines(figure.axes[0])
    assert drawn.keys() == {"by confidence (AURC 12.50 %)", "best order", "random order (20.00 %)"}
    coverage, best = drawn["best order"]
    assert np.interp([40, 80, 90, 100], coverage, best) == pytest.approx([0, 0, 100 / 9, 20], abs=1e-2)
    assert drawn["by confidence (AURC 12.50 %)"][1] == pytest.approx(100 * wrong.cumsum() / ranks)
    assert figure.axes[0].get_ylim()[1] > 25


def test_risk_coverage_of_a_perfect_network_draws():
    figure = plots.risk_coverage(np.arange(1, 6) / 5, np.zeros(5))
    figure.canvas.draw()
    assert figure.axes[0].get_ylim()[1] > 0


def test_ood_histograms_sum_to_one_and_keep_the_tail():
    stream = np.random.default_rng(0)
    inside, outside = stream.exponential(0.01, 500), stream.exponential(0.05, 300)
    outside[0] = 5.0  # one outlier must not squeeze the rest into one bin
    figure = plots.ood_histograms({"mutual_information": plots.Scores(inside, outside, 0.875)}, "photographs")
    axes = figure.axes[0]
    assert axes.get_xlim()[1] < 1 and "and above" in axes.get_xlabel()
    filled = [patch for patch in axes.patches if isinstance(patch, matplotlib.patches.Rectangle)]
    assert sum(bar.get_height() for bar in filled) == pytest.approx(200)
    assert "AUROC 87.5 %" in texts(figure) and "photographs (300 examples)" in texts(figure)
    plots.ood_histograms({"constant": plots.Scores(np.zeros(3), np.zeros(3))}, "x").canvas.draw()


@pytest.mark.parametrize("count", [2, 9])
def test_severity_draws_each_corruption_and_their_mean(count):
    curves = {f"corruption_{i}": {0: 90.0, 1: 80.0 - i, 3: 60.0 - i} for i in range(count)}
    figure = plots.severity_curves({"accuracy (%)": curves, "NLL (nats)": curves}, num_examples=1234)
    left, right = figure.axes
    assert len(left.lines) == len(right.lines) == count + 1
    mean = lines(left)["mean"]
    assert mean[0].tolist() == [0, 1, 3] and mean[1] == pytest.approx([90, 80 - (count - 1) / 2, 60 - (count - 1) / 2])
    widths = sorted(line.get_linewidth() for line in left.lines)
    assert widths[-1] > 2 * widths[-2]
    assert "1,234 examples per severity" in texts(figure)
    assert ("each of 9 corruptions" in texts(figure)) == (count == 9)


def test_saving_is_whole_or_not_at_all(tmp_path, monkeypatch):
    figure = plots.risk_coverage(np.arange(1, 6) / 5, np.linspace(0, 0.2, 5))
    paths = style.save_figure(figure, tmp_path / "figures/risk", ["png", "pdf", "svg"], dpi=50)
    assert [path.name for path in paths] == ["risk.png", "risk.pdf", "risk.svg"]
    assert paths[0].read_bytes().startswith(b"\x89PNG") and paths[1].read_bytes().startswith(b"%PDF")
    before = paths[0].read_bytes()

    def fail(path, **_):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(UqbenchError, match="no space left for"):
        style.save_figure(figure, tmp_path / "figures/risk")
    assert paths[0].read_bytes() == before and len(list((tmp_path / "figures").iterdir())) == 3


def test_no_pyplot_no_leak_and_the_callers_style_is_kept():
    before = dict(matplotlib.rcParams)
    figures = [plots.risk_coverage(np.arange(1, 6) / 5, np.linspace(0, 0.2, 5)) for _ in range(5)]
    references = [weakref.ref(figure) for figure in figures]
    del figures
    gc.collect()
    assert not any(reference() for reference in references)
    assert dict(matplotlib.rcParams) == before
    program = (
        "import sys; from uqbench.callbacks import plots; assert 'matplotlib' not in sys.modules;"
        "plots.risk_coverage([0.5, 1.0], [0.0, 0.5]); print('matplotlib.pyplot' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "False"
