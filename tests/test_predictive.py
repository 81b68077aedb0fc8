import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from scipy.stats import entropy as scipy_entropy

from uqbench.predictive import Predictive, entropy


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(-2, 1.5, 40).unsqueeze(-1)
    return scale * torch.randn(5, 40, 7, generator=generator)


def exact(logits):
    """Total, aleatoric and their difference from probabilities in float64."""
    probs = softmax(logits.double().numpy(), axis=-1)
    total, aleatoric = scipy_entropy(probs.mean(0), axis=-1), scipy_entropy(probs, axis=-1).mean(0)
    return total, aleatoric, total - aleatoric


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])
def test_the_decomposition_against_direct_entropies(logits, dtype, tolerance):
    predictive = Predictive(logits.to(dtype))
    total, aleatoric, epistemic = exact(predictive.member_logits)
    assert predictive.total.numpy() == pytest.approx(total, abs=tolerance)
    assert predictive.aleatoric.numpy() == pytest.approx(aleatoric, abs=tolerance)
    assert predictive.epistemic.numpy() == pytest.approx(epistemic, abs=tolerance)
    parts = predictive.aleatoric + predictive.epistemic
    torch.testing.assert_close(predictive.total, parts, rtol=0, atol=2 * tolerance)


def test_small_mutual_information_does_not_drown_in_rounding():
    generator = torch.Generator().manual_seed(1)
    # Confident members that hardly differ: in float32 the difference of their entropies has no correct digit.
    logits = 4 * torch.randn(1, 50, 10, generator=generator) + 1e-3 * torch.randn(4, 50, 10, generator=generator)
    epistemic = Predictive(logits).epistemic
    expected = Predictive(logits.double()).epistemic
    torch.testing.assert_close(epistemic.double(), expected, rtol=1e-2, atol=0)


def test_mutual_information_lies_between_zero_and_log_m(logits):
    epistemic = Predictive(logits).epistemic
    assert (epistemic >= 0).all() and (epistemic <= math.log(5) + 1e-6).all()
    disjoint = Predictive(100 * torch.eye(5).unsqueeze(1))
    assert disjoint.epistemic.item() == pytest.approx(math.log(5), abs=1e-6)
    assert disjoint.aleatoric.item() == pytest.approx(0, abs=1e-6)


def test_one_member_has_no_epistemic_uncertainty(logits):
    predictive = Predictive(logits[:1])
    assert (predictive.epistemic == 0).all()
    assert predictive.total.equal(predictive.aleatoric)
    assert predictive.log_probs.equal(predictive.member_log_probs[0])


def test_probabilities_are_averaged_by_default(logits):
    predictive = Predictive(logits)
    expected = softmax(logits.double().numpy(), axis=-1).mean(0)
    assert predictive.probs.numpy() == pytest.approx(expected, abs=1e-6)
    assert predictive.member_probs.numpy() == pytest.approx(softmax(logits.numpy(), axis=-1), abs=1e-6)
    assert predictive.confidence.numpy() == pytest.approx(expected.max(-1), abs=1e-6)
    assert predictive.prediction.tolist() == expected.argmax(-1).tolist()


def test_averaging_logits_is_the_softmax_of_their_mean(logits):
    predictive = Predictive(logits, average="logits")
    assert predictive.probs.numpy() == pytest.approx(softmax(logits.double().numpy().mean(0), axis=-1), abs=1e-6)
    # The uncertainties stay those of the mixture.
    assert predictive.total.equal(Predictive(logits).total)


@pytest.mark.parametrize("average", ["probs", "logits"])
def test_temperature_divides_every_member(logits, average):
    scaled = Predictive(logits, average).with_temperature(2.5)
    assert (scaled.average, scaled.temperature) == (average, 2.5)
    torch.testing.assert_close(scaled.log_probs, Predictive(logits / 2.5, average).log_probs, rtol=1e-5, atol=1e-5)
    # Not cumulative: the temperature is of the logits.
    assert scaled.with_temperature(1.0).log_probs.equal(Predictive(logits, average).log_probs)


@pytest.mark.parametrize("average", ["probs", "logits"])
def test_extreme_logits_are_finite(average):
    logits = torch.tensor([[[1e4, -1e4, 0.0], [0.0, 0.0, 1e30]], [[-1e4, 1e4, 0.0], [1e30, 0.0, 0.0]]])
    predictive = Predictive(logits, average)
    for values in (predictive.log_probs, predictive.total, predictive.aleatoric, predictive.epistemic):
        assert values.isfinite().all()
    torch.testing.assert_close(predictive.probs.sum(-1), torch.ones(2))
    torch.testing.assert_close(predictive.epistemic, torch.full((2,), math.log(2)))
    assert (predictive.aleatoric == 0).all()


def test_the_log_of_the_mixture_does_not_underflow():
    logits = torch.tensor([[[0.0, -500.0]], [[0.0, -510.0]]])
    expected = logsumexp([-500, -510]) - math.log(2)
    assert Predictive(logits).log_probs[0, 1].item() == pytest.approx(expected, abs=1e-4)


def test_an_impossible_class_contributes_nothing():
    logits = torch.tensor([[[1.0, 2.0, -math.inf]], [[2.0, 1.0, -math.inf]]])
    masked, without = Predictive(logits), Predictive(logits[..., :2])
    for name in ("total", "aleatoric", "epistemic"):
        torch.testing.assert_close(getattr(masked, name), getattr(without, name))
    assert entropy(torch.tensor([0.0, -math.inf])) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_logits_are_evaluated_in_float32(logits, dtype):
    low = Predictive(logits.to(dtype))
    assert low.probs.dtype == low.epistemic.dtype == torch.float32
    assert low.log_probs.equal(Predictive(logits.to(dtype).float()).log_probs)


def test_entropy_of_the_uniform_distribution():
    uniform = torch.full((4, 8), 1 / 8, dtype=torch.float64).log()
    assert entropy(uniform).numpy() == pytest.approx(np.full(4, math.log(8)), abs=1e-12)
