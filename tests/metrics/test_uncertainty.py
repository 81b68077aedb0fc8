import math

import pytest
import torch
from scipy.stats import entropy

from uqbench.metrics.uncertainty import Uncertainty, uncertainty
from uqbench.predictive import Predictive


def test_against_scipy_and_streaming(generator):
    logits = 3 * torch.randn(3, 29, 5, generator=generator, dtype=torch.float64)
    probs = logits.softmax(-1).numpy()
    total, aleatoric = entropy(probs.mean(0), axis=-1).mean(), entropy(probs, axis=-1).mean()
    metric, other = Uncertainty(), Uncertainty()
    for i, batch in enumerate(logits.split([1, 8, 20], dim=1)):
        (metric if i < 2 else other).update(Predictive(batch))
    metric.merge_state(other)
    for result in (metric.compute(), uncertainty(Predictive(logits))):
        assert result["total_entropy"].item() == pytest.approx(total, abs=1e-12)
        assert result["aleatoric_entropy"].item() == pytest.approx(aleatoric, abs=1e-12)
        assert result["mutual_information"].item() == pytest.approx(total - aleatoric, abs=1e-12)


def test_certain_members_that_disagree_are_all_epistemic():
    logits = torch.tensor([[[100.0, 0.0]], [[0.0, 100.0]]])
    result = uncertainty(Predictive(logits))
    assert result["mutual_information"].item() == pytest.approx(math.log(2), abs=1e-6)
    assert result["aleatoric_entropy"].item() == pytest.approx(0, abs=1e-6)
