import itertools
import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cosine
from scipy.stats import entropy

from uqbench.metrics.diversity import Diversity, diversity, pairwise_cosine, pairwise_disagreement, pairwise_kl


@pytest.fixture
def members(generator):
    return (2 * torch.randn(5, 23, 4, generator=generator, dtype=torch.float64)).log_softmax(-1)


def over_pairs(members, function, pairs=itertools.combinations):
    probs = members.exp().numpy()
    return [np.mean([function(p, q) for p, q in pairs(probs[:, i], 2)]) for i in range(probs.shape[1])]


def test_against_explicit_pairs(members):
    disagreement = over_pairs(members, lambda p, q: float(p.argmax() != q.argmax()))
    assert pairwise_disagreement(members).numpy() == pytest.approx(disagreement, abs=1e-12)
    kl = over_pairs(members, entropy, itertools.permutations)
    assert pairwise_kl(members).numpy() == pytest.approx(kl, abs=1e-12)
    cosines = over_pairs(members, lambda p, q: 1 - cosine(p, q))
    assert pairwise_cosine(members.exp()).numpy() == pytest.approx(cosines, abs=1e-12)


def test_disagreement_by_hand():
    # Votes 2, 2, 1 of five members: the agreeing pairs are 1 + 1 of 10.
    scores = torch.nn.functional.one_hot(torch.tensor([0, 0, 1, 1, 2]), 3).float().unsqueeze(1)
    assert pairwise_disagreement(scores).item() == pytest.approx(0.8)


def test_equal_members_do_not_differ(members):
    same = members[:1].expand(4, -1, -1)
    result = diversity(same.float())
    assert result["disagreement"] == 0
    assert result["kl"].item() == pytest.approx(0, abs=1e-12)
    assert result["cosine"].item() == pytest.approx(1, abs=1e-12)


def test_small_divergences_do_not_drown_in_rounding(generator):
    logits = torch.randn(1, 9, 10, generator=generator) + 1e-3 * torch.randn(3, 9, 10, generator=generator)
    exact = over_pairs(logits.double().log_softmax(-1), entropy, itertools.permutations)
    assert pairwise_kl(logits.log_softmax(-1)).numpy() == pytest.approx(exact, rel=2e-3)


def test_extreme_logits():
    logits = torch.tensor([[[1e4, 0.0, 0.0]], [[0.0, 1e4, 0.0]]])
    result = diversity(logits.log_softmax(-1))
    assert result["disagreement"] == 1 and result["cosine"] == 0
    assert result["kl"].item() == pytest.approx(1e4)


def test_classes_of_probability_zero():
    masked = torch.tensor([[[0.0, 1.0, -math.inf]], [[1.0, 0.0, -math.inf]]]).log_softmax(-1)
    assert pairwise_kl(masked).item() == pytest.approx(pairwise_kl(masked[..., :2]).item())
    one_sided = torch.tensor([[[0.0, -math.inf]], [[0.0, 0.0]]]).log_softmax(-1)
    assert pairwise_kl(one_sided).item() == math.inf


def test_streaming_equals_the_function(members, stream):
    streamed, expected = stream(Diversity, members, axis=1), diversity(members)
    assert list(streamed) == ["disagreement", "kl", "cosine"]
    for key, value in expected.items():
        torch.testing.assert_close(streamed[key], value, rtol=1e-12, atol=0)


def test_one_member_has_no_diversity(members):
    metric = Diversity()
    metric.update(members[:1])
    assert metric.compute() == diversity(members[:1]) == {}
    with pytest.raises(ValueError, match="two members"):
        pairwise_kl(members[:1])
