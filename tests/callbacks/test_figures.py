"""The pictures of a whole evaluation: which are drawn, where they go, and that W&B gets them."""

from __future__ import annotations

import pytest
from known import SIZES, evaluate, make_data
from PIL import Image

from uqbench.callbacks.evaluation import Evaluation
from uqbench.callbacks.figures import Figures, draw
from uqbench.errors import ConfigError
from uqbench.loggers import finishing, wandb_logger

NAMES = ["reliability", "risk_coverage", "ood_photographs", "severity"]


def test_draws_every_picture_whatever_the_order_of_callbacks(tmp_path):
    figures = Figures(dpi=60, formats=["png", "svg"], dirpath=str(tmp_path / "run"))
    evaluate(make_data(3), tmp_path, [figures, Evaluation()])
    assert [path.name for path in figures.paths] == [f"{name}.{each}" for name in NAMES for each in ("png", "svg")]
    assert set(figures.paths) == set((tmp_path / "run/figures").iterdir())
    with Image.open(figures.paths[0]) as image:
        assert image.size == (int(6.8 * 60), int(4.0 * 60))


def test_figures_show_the_numbers_of_the_record(tmp_path):
    evaluation = Evaluation()
    evaluate(make_data(3), tmp_path, [evaluation])
    drawn = dict(draw(evaluation))
    results = evaluation.results
    raw, scaled, *_ = drawn["reliability"].axes
    assert raw.get_title("left").startswith(f"raw: ECE {100 * results['test/ece']:.2f} %\n")
    temperature, ece = results["test/temperature"], 100 * results["test/temperature_scaled/ece"]
    assert scaled.get_title("left").startswith(f"temperature-scaled (T = {temperature:.2f}): ECE {ece:.2f} %\n")
    accuracy = drawn["severity"].axes[0].lines[-1].get_ydata()
    keys = ("test/accuracy", "shift/severity/1/accuracy", "shift/severity/3/accuracy")
    # Severity 1 has one corruption, so its mean is that of the corruptions that have it.
    assert list(accuracy) == pytest.approx([100 * results[key] for key in keys])
    titles = [axes.get_title("left") for axes in drawn["ood_photographs"].axes]
    assert titles[0] == f"1 - max probability\nAUROC {100 * results['ood/photographs/auroc[max_probability]']:.1f} %"
    assert len(titles) == 3


@pytest.mark.parametrize(
    "splits, names", [(["val"], []), (["val", "test"], NAMES[:2]), (["test", "ood/photographs"], NAMES[:3])]
)
def test_only_what_was_evaluated(tmp_path, splits, names):
    figures = Figures(dpi=40)
    evaluate(make_data(1, {split: SIZES[split] for split in splits}), tmp_path, [Evaluation(), figures])
    assert [path.stem for path in figures.paths] == names
    assert all(path.parent == tmp_path / "figures" for path in figures.paths)


def test_wandb_gets_the_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = wandb_logger(str(tmp_path / "run"), "abc")
    evaluation, figures = Evaluation(), Figures(dpi=40, dirpath=str(tmp_path / "run"))
    with finishing([logger]):
        evaluate(make_data(2), tmp_path, [evaluation, figures], [logger])
        summary = logger.experiment.summary
        assert all(summary[key] == pytest.approx(value) for key, value in evaluation.results.items())
    media = {path.name.rsplit("_", 2)[0] for path in (tmp_path / "run/wandb").rglob("media/images/figures/*.png")}
    assert media == set(NAMES)


def test_wrong_settings_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="formats must be among png, pdf, svg"):
        Figures(formats=["jpg"])
    with pytest.raises(ConfigError, match="dpi must be positive"):
        Figures(dpi=0)
    with pytest.raises(ConfigError, match=r"callbacks\.figures draws what callbacks\.evaluation measures"):
        evaluate(make_data(1), tmp_path, [Figures()])
