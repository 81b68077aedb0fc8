import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss

from uqbench.metrics.proper_scores import (
    Accuracy,
    Brier,
    NegativeLogLikelihood,
    accuracy,
    brier,
    negative_log_likelihood,
)


@pytest.fixture
def batch(generator):
    logits = 3 * torch.randn(101, 5, generator=generator, dtype=torch.float64)
    return logits.log_softmax(-1), torch.randint(5, (101,), generator=generator)


def test_by_hand():
    probs = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])
    target = torch.tensor([0, 1])
    assert accuracy(probs, target) == 0.5
    assert negative_log_likelihood(probs.log(), target).item() == pytest.approx((math.log(2) + math.log(5)) / 2, 1e-6)
    by_hand = (0.25 + 0.0625 + 0.0625 + 0.01 + 0.64 + 0.49) / 2
    assert brier(probs, target).item() == pytest.approx(by_hand, 1e-6)


def test_against_scikit_learn(batch):
    log_probs, target = batch
    probs = log_probs.exp().numpy()
    assert accuracy(log_probs, target).item() == pytest.approx(accuracy_score(target, probs.argmax(-1)), abs=1e-15)
    assert negative_log_likelihood(log_probs, target).item() == pytest.approx(
        log_loss(target, probs, labels=np.arange(5)), abs=1e-12
    )
    one_versus_rest = [brier_score_loss(target == c, probs[:, c]) for c in range(5)]
    assert brier(log_probs.exp(), target).item() == pytest.approx(sum(one_versus_rest), abs=1e-12)


def test_streaming_equals_the_functions(batch, stream):
    log_probs, target = batch
    for make, function, scores in [
        (Accuracy, accuracy, log_probs),
        (NegativeLogLikelihood, negative_log_likelihood, log_probs),
        (Brier, brier, log_probs.exp()),
    ]:
        torch.testing.assert_close(stream(make, scores, target), function(scores, target), rtol=1e-13, atol=0)


def test_row_order_does_not_matter(batch, generator):
    log_probs, target = batch
    order = torch.randperm(len(target), generator=generator)
    for function in (accuracy, negative_log_likelihood, brier):
        torch.testing.assert_close(
            function(log_probs[order], target[order]), function(log_probs, target), rtol=1e-13, atol=0
        )


def test_single_example_and_extremes():
    certain = torch.tensor([[0.0, 1.0]])
    assert accuracy(certain, torch.tensor([1])) == 1
    assert brier(certain, torch.tensor([1])) == 0
    assert brier(certain, torch.tensor([0])) == 2
    assert negative_log_likelihood(certain.log(), torch.tensor([1])) == 0
    assert negative_log_likelihood(certain.log(), torch.tensor([0])) == math.inf


def test_nll_is_not_clipped():
    log_probs = torch.tensor([[0.0, -200.0]])
    assert negative_log_likelihood(log_probs, torch.tensor([1])) == 200
