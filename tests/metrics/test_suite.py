import math

import pytest
import torch

from uqbench.errors import ConfigError, DataError
from uqbench.metrics import CONVENTIONS, EvaluationSuite
from uqbench.metrics.calibration import (
    adaptive_calibration_error,
    calibration_bins,
    calibration_error,
    classwise_calibration_error,
    maximum_calibration_error,
)
from uqbench.metrics.diversity import diversity
from uqbench.metrics.proper_scores import accuracy, brier, negative_log_likelihood
from uqbench.metrics.selective import risk_coverage_curve, selective_risk
from uqbench.metrics.uncertainty import uncertainty
from uqbench.predictive import Predictive

CLASSES, MEMBERS = 4, 3
SHORT = {"accuracy", "nll", "brier", "ece", "aurc", "mutual_information"}


@pytest.fixture
def data(generator):
    target = torch.randint(CLASSES, (120,), generator=generator)
    logits = 2 * torch.nn.functional.one_hot(target, CLASSES) + torch.randn(MEMBERS, 120, CLASSES, generator=generator)
    return logits, target


def evaluate(logits, target, average="probs", sizes=(1, 50, 69), **settings):
    suite = EvaluationSuite(CLASSES, len(logits), **settings)
    for rows, targets in zip(logits.split(sizes, dim=1), target.split(sizes), strict=True):
        suite.update(Predictive(rows, average), targets)
    return suite


def expected_values(predictive, target, num_bins=15):
    """The full set from the functional twins, on everything at once."""
    confidence, correct = predictive.confidence, predictive.prediction == target
    members = [(m, m.exp().amax(-1), m.argmax(-1) == target) for m in predictive.member_log_probs]
    return {
        "accuracy": accuracy(predictive.probs, target),
        "nll": negative_log_likelihood(predictive.log_probs, target),
        "brier": brier(predictive.probs, target),
        "ece": calibration_error(confidence, correct, num_bins),
        "ece_adaptive": adaptive_calibration_error(confidence, correct, num_bins),
        "ece_classwise": classwise_calibration_error(predictive.probs, target, num_bins),
        "mce": maximum_calibration_error(confidence, correct, num_bins),
        "member_accuracy": sum(accuracy(m, target) for m, _, _ in members) / len(members),
        "member_nll": sum(negative_log_likelihood(m, target) for m, _, _ in members) / len(members),
        "member_ece": sum(calibration_error(c, right, num_bins) for _, c, right in members) / len(members),
        **selective_risk(confidence, 1 - correct.float()),
        **uncertainty(predictive),
        **diversity(predictive.member_log_probs),
    }


@pytest.mark.parametrize("average", ["probs", "logits"])
def test_the_full_set_equals_the_functions(data, average):
    values = evaluate(*data, average, num_bins=10).compute()
    expected = expected_values(Predictive(data[0], average), data[1], num_bins=10)
    assert values.keys() == expected.keys()
    for key, value in expected.items():
        assert isinstance(values[key], float)
        assert values[key] == pytest.approx(value.item(), abs=1e-6), key


def test_the_short_set(data):
    values, full = evaluate(*data, full=False).compute(), evaluate(*data).compute()
    assert values.keys() == SHORT
    assert values == {key: full[key] for key in SHORT}


def test_the_temperature_scaled_figures_stand_beside_the_raw_ones(data):
    plain, scaled = evaluate(*data).compute(), evaluate(*data, temperature=2.5).compute()
    expected = expected_values(Predictive(data[0], temperature=2.5), data[1])
    for key in ("nll", "brier", "ece", "ece_adaptive", "aurc"):
        assert scaled.pop(f"temperature_scaled/{key}") == pytest.approx(expected[key].item(), abs=1e-6)
    assert scaled == plain
    short = evaluate(*data, full=False, temperature=2.5).compute()
    extra = {"temperature_scaled/nll", "temperature_scaled/brier", "temperature_scaled/ece", "temperature_scaled/aurc"}
    assert short.keys() == SHORT | extra


def test_one_member_has_no_diversity_and_is_its_own_mean(data):
    values = evaluate(data[0][:1], data[1]).compute()
    assert not values.keys() & {"disagreement", "kl", "cosine"}
    assert values["mutual_information"] == 0
    for key in ("accuracy", "nll", "ece"):
        assert values[f"member_{key}"] == pytest.approx(values[key], abs=1e-6)


def test_the_total_is_the_sum_of_its_parts(data):
    values = evaluate(*data).compute()
    parts = values["aleatoric_entropy"] + values["mutual_information"]
    assert values["total_entropy"] == pytest.approx(parts, abs=1e-6)


def test_figures_can_be_drawn(data):
    predictive, target = Predictive(data[0]), data[1]
    suite = evaluate(*data, temperature=3.0)
    for which, scaled in [(predictive, False), (predictive.with_temperature(3.0), True)]:
        correct = which.prediction == target
        assert suite.bins(scaled).count.equal(calibration_bins(which.confidence, correct).count)
        curve = risk_coverage_curve(which.confidence, 1 - correct.float())
        torch.testing.assert_close(suite.risk_coverage(scaled).risk, curve.risk)
    with pytest.raises(ValueError, match="without a temperature"):
        evaluate(*data).bins(temperature_scaled=True)


def test_reset_and_the_single_example(data):
    suite = evaluate(*data)
    suite.reset()
    suite.update(Predictive(data[0][:, :1]), data[1][:1])
    values = suite.compute()
    assert values["accuracy"] in (0, 1)
    assert all(math.isfinite(value) for value in values.values())


def test_saturated_predictions(data):
    logits, target = 1e4 * data[0].round(), data[1]
    assert all(math.isfinite(value) for value in evaluate(logits, target, temperature=0.5).compute().values())
    assert all(math.isfinite(value) for value in evaluate(data[0].bfloat16(), target).compute().values())


def test_what_does_not_fit_is_refused(data):
    logits, target = data
    for wrong in (EvaluationSuite(CLASSES, 2), EvaluationSuite(5, MEMBERS)):
        with pytest.raises(ValueError, match="Made for logits"):
            wrong.update(Predictive(logits), target)
    with pytest.raises(ValueError, match="Made for logits"):
        EvaluationSuite(CLASSES, MEMBERS).update(Predictive(logits), target[:-1])
    for settings in ({"num_classes": 1}, {"num_members": 0}, {"num_bins": 0}, {"temperature": 0.0}, {"risks": (2,)}):
        with pytest.raises(ConfigError):
            EvaluationSuite(**{"num_classes": CLASSES, **settings})


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_an_empty_split_says_so():
    with pytest.raises(DataError, match="no examples"):
        EvaluationSuite(CLASSES).compute()


def test_every_figure_has_its_convention(data):
    covered = {
        **dict.fromkeys(("accuracy", "member_accuracy", "member_nll", "member_ece"), "averaging"),
        **dict.fromkeys(("total_entropy", "aleatoric_entropy", "mutual_information"), "uncertainty"),
        **dict.fromkeys(("disagreement", "kl", "cosine"), "diversity"),
        **dict.fromkeys(("aurc_sum", "aurc_achievable"), "aurc"),
    }
    for key in evaluate(*data).compute():
        name = key.split("[")[0]
        assert covered.get(name, name) in CONVENTIONS, key
