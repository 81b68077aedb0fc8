import math

import pytest
import torch
from scipy.optimize import minimize_scalar

from uqbench.errors import ConfigError, TrainingError
from uqbench.metrics.proper_scores import negative_log_likelihood
from uqbench.metrics.temperature import TemperatureFit, fit_temperature, minimise, temperature_grid
from uqbench.predictive import Predictive


def nll(logits, target, average, temperature):
    return negative_log_likelihood(Predictive(logits.double(), average, float(temperature)).log_probs, target).item()


def best(logits, target, average):
    """The minimiser of the NLL of `Predictive` itself, by Brent's method."""
    found = minimize_scalar(
        lambda log: nll(logits, target, average, math.exp(log)), bracket=(-0.5, 0.5), options={"xtol": 1e-8}
    )
    return math.exp(found.x), found.fun


@pytest.fixture(params=[0.3, 1.0, 6.0])
def data(request, generator):
    """Labels drawn from a softmax of hidden logits, and three members that are noisy, over- or underconfident views."""
    hidden = 2 * torch.randn(600, 6, generator=generator)
    target = torch.multinomial(hidden.softmax(-1), 1, generator=generator).squeeze(-1)
    return request.param * (hidden + torch.randn(3, 600, 6, generator=generator)), target


@pytest.mark.parametrize("average", ["probs", "logits"])
@pytest.mark.parametrize("members", [1, 3])
def test_against_direct_minimisation(data, average, members):
    logits, target = data[0][:members], data[1]
    temperature, lowest = best(logits, target, average)
    fitted = fit_temperature(logits, target, average)
    assert fitted.item() == pytest.approx(temperature, rel=0.01)
    assert nll(logits, target, average, fitted) == pytest.approx(lowest, abs=1e-4)


def test_an_ensemble_needs_another_temperature_than_its_members(data):
    logits, target = data
    single = fit_temperature(logits[:1], target).item()
    ensemble = fit_temperature(logits, target).item()
    assert ensemble < single


@pytest.mark.parametrize("average", ["probs", "logits"])
def test_streaming_equals_the_function(data, average, generator):
    logits, target = data
    metric, other = TemperatureFit(average), TemperatureFit(average)
    for i, rows in enumerate(torch.randperm(600, generator=generator).split([1, 250, 349])):
        (metric if i < 2 else other).update(logits[:, rows], target[rows])
    metric.merge_state(other)
    assert metric.compute().item() == pytest.approx(fit_temperature(logits, target, average).item(), rel=1e-6)
    temperatures, curve = metric.curve()
    i = len(temperatures) // 2
    assert temperatures[i].item() == pytest.approx(1, abs=1e-12)
    assert curve[i].item() == pytest.approx(nll(logits, target, average, 1.0), abs=1e-6)


def test_the_edges_of_the_grid_are_answers():
    right = torch.tensor([[[2.0, 0.0, 0.0]]])
    wrong = torch.tensor([[[0.0, 2.0, 0.0]]])
    target = torch.tensor([0])
    assert fit_temperature(wrong, target, lowest=0.1, highest=10).item() == pytest.approx(10)
    assert fit_temperature(right, target, lowest=0.5, highest=10).item() == pytest.approx(0.5)


def test_an_nll_that_does_not_depend_on_the_temperature_leaves_it_at_one():
    flat = torch.zeros(2, 5, 3)
    assert fit_temperature(flat, torch.zeros(5, dtype=torch.long)).item() == pytest.approx(1, abs=1e-12)


def test_the_minimum_of_a_parabola_is_exact():
    grid = temperature_grid(0.1, 10, 21)
    logs = torch.tensor(grid, dtype=torch.float64).log()
    assert minimise(grid, (logs - 0.321) ** 2 + 3).item() == pytest.approx(math.exp(0.321), rel=1e-12)


def test_large_logits_and_low_precision():
    logits = torch.tensor([[[3e4, 0.0], [3e4, 2e4], [0.0, 1.0]]])
    target = torch.tensor([0, 0, 0])
    assert fit_temperature(logits, target).isfinite()
    assert fit_temperature(logits.bfloat16(), target).isfinite()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="lowest"):
        TemperatureFit(lowest=2, highest=1)
    with pytest.raises(ConfigError, match="3 points"):
        TemperatureFit(points=2)
    with pytest.raises(ConfigError, match="average"):
        TemperatureFit(average="mean")
    with pytest.raises(ValueError, match=r"\[M, B, C\]"):
        fit_temperature(torch.zeros(5, 3), torch.zeros(5, dtype=torch.long))
    metric = TemperatureFit()
    metric.update(torch.tensor([[[math.nan, 0.0]]]), torch.tensor([0]))
    with pytest.raises(TrainingError, match="not finite"):
        metric.compute()
