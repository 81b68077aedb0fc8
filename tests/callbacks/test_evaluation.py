"""A whole ``Trainer.test`` on known logits: every figure against direct computation on all the data at once."""

from __future__ import annotations

import pytest
import torch
from known import CLASSES, SIZES, Spy, evaluate, make_data, predictive
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score, roc_auc_score

from uqbench.callbacks.evaluation import Evaluation, shift_figures, shift_means
from uqbench.errors import ConfigError
from uqbench.metrics.suite import EvaluationSuite
from uqbench.metrics.temperature import fit_temperature


@pytest.mark.parametrize("members", [1, 3])
def test_every_key_against_direct_computation(tmp_path, members):
    data, spy = make_data(members), Spy()
    evaluation = Evaluation(num_bins=10)
    evaluate(data, tmp_path, [evaluation], [spy])

    temperature = float(fit_temperature(data["val"]["logits"].transpose(0, 1), data["val"]["target"]))
    expected = {"test/temperature": temperature}
    for split, columns in data.items():
        if not split.startswith("ood/"):
            suite = EvaluationSuite(
                CLASSES, members, full=split in ("val", "test"), num_bins=10,
                temperature=temperature if split == "test" else None,
            )  # fmt: skip
            suite.update(predictive(columns), columns["target"])
            expected |= {f"{split}/{key}": value for key, value in suite.compute().items()}
    for metric in ("accuracy", "nll", "brier", "ece", "aurc", "mutual_information"):
        fog1, fog3, snow3 = (expected[f"shift/{name}/{metric}"] for name in ("fog/1", "fog/3", "snow/3"))
        expected[f"shift/mean/{metric}"] = (fog1 + fog3 + snow3) / 3
        expected[f"shift/severity/1/{metric}"] = fog1
        expected[f"shift/severity/3/{metric}"] = (fog3 + snow3) / 2
    inside, outside = predictive(data["test"]), predictive(data["ood/photographs"])
    truth = torch.cat([torch.zeros(SIZES["test"]), torch.ones(SIZES["ood/photographs"])])
    scores = {"max_probability": lambda p: -p.confidence, "total_entropy": lambda p: p.total}
    if members > 1:
        scores["mutual_information"] = lambda p: p.epistemic
    for name, score in scores.items():
        values = torch.cat([score(inside), score(outside)])
        expected[f"ood/photographs/auroc[{name}]"] = roc_auc_score(truth, values)
        expected[f"ood/photographs/aupr[{name}]"] = average_precision_score(truth, values)
        threshold = score(outside).sort(descending=True).values[-(-95 * len(outside.total) // 100) - 1]
        expected[f"ood/photographs/fpr95[{name}]"] = float((score(inside) >= threshold).double().mean())

    assert evaluation.results.keys() == expected.keys()
    for key, value in expected.items():
        assert evaluation.results[key] == pytest.approx(value, rel=1e-5, abs=1e-7), key
    assert all(type(value) is float for value in evaluation.results.values())
    assert spy.logged == [evaluation.results], "logged to every logger, once"
    assert evaluation.counts == SIZES
    # By hand, without the suite.
    log_probs, target = predictive(data["test"]).log_probs, data["test"]["target"]
    nll = -log_probs[range(len(target)), target].mean()
    assert evaluation.results["test/nll"] == pytest.approx(float(nll), rel=1e-5)
    scaled = predictive(data["test"], temperature).log_probs
    nll = -scaled[range(len(target)), target].mean()
    assert evaluation.results["test/temperature_scaled/nll"] == pytest.approx(float(nll), rel=1e-5)
    assert abs(temperature - 1) > 0.1, "or the test could not tell scaled from raw"


def test_batch_size_and_a_second_evaluation_change_nothing(tmp_path):
    data, evaluation = make_data(3), Evaluation()
    evaluate(data, tmp_path, [evaluation], batch_size=16)
    first = evaluation.results
    evaluate(data, tmp_path, [evaluation], batch_size=7)
    assert evaluation.results == pytest.approx(first, rel=1e-5, abs=1e-7)
    assert evaluation.counts == SIZES


def test_predictions_are_saved_only_if_wanted(tmp_path):
    data = make_data(3)
    evaluate(data, tmp_path / "a", [Evaluation(dirpath=str(tmp_path / "none"))])
    evaluate(data, tmp_path / "b", [Evaluation(save_predictions=True, dirpath=str(tmp_path / "run"))])
    evaluate(data, tmp_path / "root", [Evaluation(save_predictions=True)])
    assert not (tmp_path / "none").exists()
    names = ["predictions_test.safetensors", "predictions_val.safetensors"]
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == names
    assert sorted(p.name for p in (tmp_path / "root").iterdir()) == names
    for split in ("val", "test"):
        saved = load_file(tmp_path / "run" / f"predictions_{split}.safetensors")
        assert saved["probs"].dtype == torch.float32
        torch.testing.assert_close(saved["probs"], predictive(data[split]).probs)
        assert torch.equal(saved["target"], data[split]["target"]) and torch.equal(saved["index"], data[split]["index"])


def test_nothing_of_size_n_by_c_is_kept(tmp_path):
    sizes = {"val": 400, "test": 300, "shift/fog/1": 200, "ood/photographs": 250}
    evaluation = Evaluation()
    evaluate(make_data(3, sizes), tmp_path, [evaluation], batch_size=50)
    states = [s for suite in evaluation.suites.values() for m in suite.modules() for s in vars(m).values()]
    tensors = [t for s in states for t in (s if isinstance(s, list) else [s]) if torch.is_tensor(t)]
    assert tensors and all(t.numel() <= 400 for t in tensors)
    assert not evaluation._saved and set(evaluation.suites) == {"val", "test"}


@pytest.mark.parametrize("splits", [["test"], ["val"], ["val", "ood/photographs"], ["test", "ood/photographs"]])
def test_fewer_splits(tmp_path, splits):
    evaluation = Evaluation()
    evaluate(make_data(2, {split: SIZES[split] for split in splits}), tmp_path, [evaluation])
    keys = set(evaluation.results)
    assert (
        ("test/temperature" in keys) == any("temperature_scaled" in key for key in keys) == (splits == ["val", "test"])
    )
    assert any(key.startswith("ood/") for key in keys) == (splits == ["test", "ood/photographs"])


def test_wrong_set_up_is_said_at_once(tmp_path):
    data = make_data(1)
    with pytest.raises(ConfigError, match="begin with val"):
        evaluate({"test": data["test"], "val": data["val"]}, tmp_path, [Evaluation()])
    with pytest.raises(ConfigError, match="num_bins must be at least 1"):
        Evaluation(num_bins=0)


def test_csv_logger_takes_the_keys(tmp_path):
    logger = CSVLogger(tmp_path, name="csv")
    evaluation = Evaluation()
    evaluate(make_data(2), tmp_path, [evaluation], [logger])
    header = (tmp_path / "csv/version_0/metrics.csv").read_text().splitlines()[0].split(",")
    assert set(header) == evaluation.results.keys() | {"step"}


def test_shift_means_of_an_incomplete_grid():
    results = {"shift/fog/1/nll": 1.0, "shift/fog/5/nll": 3.0, "shift/snow/5/nll": 5.0, "test/nll": 9.0}
    means = shift_means(results)
    assert means == {"shift/mean/nll": 3.0, "shift/severity/1/nll": 1.0, "shift/severity/5/nll": 4.0}
    assert shift_figures(results | means) == {"nll": {"fog": {1: 1.0, 5: 3.0}, "snow": {5: 5.0}}}
    assert shift_means({"test/nll": 1.0}) == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_same_figures_on_a_gpu(tmp_path):
    data, here, there = make_data(3), Evaluation(), Evaluation()
    evaluate(data, tmp_path, [here])
    evaluate(data, tmp_path, [there], accelerator="gpu")
    assert there.results == pytest.approx(here.results, rel=1e-4, abs=1e-6)
