import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from uqbench.errors import DataError
from uqbench.metrics.ood import OOD_SCORES, OODScores, ood_detection, ood_metrics, ood_scores
from uqbench.predictive import Predictive


def labelled(id_scores, ood_scores):
    return np.r_[np.zeros(len(id_scores)), np.ones(len(ood_scores))], np.r_[id_scores, ood_scores]


def values(id_scores, ood_scores):
    scores = [torch.as_tensor(s, dtype=torch.float64) for s in (id_scores, ood_scores)]
    return {key: value.item() for key, value in ood_detection(*scores).items()}


@pytest.mark.parametrize("levels", [3, 20, 10**6])
@pytest.mark.parametrize("sizes", [(50, 70), (1, 9), (9, 1), (1, 1), (200, 13)])
def test_against_scikit_learn(levels, sizes):
    random = np.random.default_rng(sum(sizes))
    # Far beyond [0, 1]: torchmetrics would squeeze these by a sigmoid and merge them.
    id_scores = 30 + random.integers(levels, size=sizes[0]) / levels
    ood_scores_ = 30.2 + random.integers(levels, size=sizes[1]) / levels
    result = values(id_scores, ood_scores_)
    assert result["auroc"] == pytest.approx(roc_auc_score(*labelled(id_scores, ood_scores_)), abs=1e-12)
    assert result["aupr"] == pytest.approx(average_precision_score(*labelled(id_scores, ood_scores_)), abs=1e-12)


def test_auroc_counts_ties_half():
    id_scores, ood = [1, 2, 2, 3], [2, 3, 4]
    wins = [(b > a) + (a == b) / 2 for a, b in itertools.product(id_scores, ood)]
    assert values(id_scores, ood)["auroc"] == pytest.approx(np.mean(wins))


def test_fpr95_by_hand():
    # 19 of 20 OOD examples are 95 %: the threshold is the second lowest OOD score, 2.
    ood = [1.0, 2.0, *[5.0] * 18]
    assert values([0.0, 1.5, 2.0, 2.5], ood)["fpr95"] == 0.5
    # Of 19, 95 % is 18.05: all must be detected, down to the score 1.
    assert values([0.0, 1.5, 2.0, 2.5], ood[:-1])["fpr95"] == 0.75
    # A tie at the threshold is detected whole.
    assert values([0.0, 1.5, 2.0, 2.5], [2.0, 2.0, *[5.0] * 18])["fpr95"] == 0.5


def test_fpr95_against_brute_force():
    random = np.random.default_rng(0)
    for m in (1, 7, 20, 60, 100, 180):
        id_scores, ood = random.integers(40, size=80), 5 + random.integers(40, size=m)
        thresholds = [t for t in np.unique(np.r_[id_scores, ood]) if 100 * (ood >= t).sum() >= 95 * m]
        assert values(id_scores, ood)["fpr95"] == np.mean(id_scores >= max(thresholds))


def test_constant_and_perfect_scores():
    assert values([0.0] * 6, [0.0] * 2) == {"auroc": 0.5, "aupr": 0.25, "fpr95": 1.0}
    assert values([0.1, 0.2], [0.3, 0.4]) == {"auroc": 1.0, "aupr": 1.0, "fpr95": 0.0}
    assert values([0.3, 0.4], [0.1, 0.2])["auroc"] == 0
    assert values([-math.inf], [math.inf])["auroc"] == 1


def test_row_order_does_not_matter():
    random = np.random.default_rng(1)
    id_scores, ood = random.integers(5, size=40), random.integers(1, 6, size=30)
    assert values(random.permutation(id_scores), random.permutation(ood)) == values(id_scores, ood)


def test_nothing_to_compare_is_an_error():
    some = torch.ones(2)
    for pair, which in [((some[:0], some), "in-distribution"), ((some, some[:0]), "out-of-distribution")]:
        with pytest.raises(DataError, match=which):
            ood_detection(*pair)
    with pytest.raises(ValueError, match="NaN"):
        ood_detection(some, torch.tensor([math.nan]))
    with pytest.raises(ValueError, match="Expected scores"):
        ood_detection(some, torch.ones(2, 2))


@pytest.fixture
def predictives(generator):
    sharp = Predictive(5 * torch.randn(3, 31, 4, generator=generator, dtype=torch.float64))
    flat = Predictive(0.5 * torch.randn(3, 17, 4, generator=generator, dtype=torch.float64))
    return sharp, flat


def test_scores_are_higher_for_the_less_certain(predictives):
    sharp, flat = (ood_scores(p) for p in predictives)
    for name in ("max_probability", "total_entropy"):
        assert flat[name].mean() > sharp[name].mean()
    torch.testing.assert_close(sharp["max_probability"], 1 - predictives[0].probs.amax(-1).float())
    torch.testing.assert_close(sharp["total_entropy"] - predictives[0].aleatoric.float(), sharp["mutual_information"])


def test_streaming_equals_the_function(predictives):
    whole = predictives[0]
    metric, other = OODScores(), OODScores()
    for i, logits in enumerate(whole.member_logits.split([1, 10, 20], dim=1)):
        (metric if i < 2 else other).update(Predictive(logits))
    metric.merge_state(other)
    collected, expected = metric.compute(), ood_scores(whole)
    assert list(collected) == list(OOD_SCORES)
    for name in OOD_SCORES:
        # Merging two processes interleaves the rows.
        torch.testing.assert_close(collected[name].sort().values, expected[name].sort().values, rtol=1e-6, atol=1e-7)


def test_every_score_has_its_three_figures(predictives):
    id_scores, ood = (ood_scores(p) for p in predictives)
    result = ood_metrics(id_scores, ood)
    assert len(result) == 9
    assert result["auroc[total_entropy]"] == ood_detection(id_scores["total_entropy"], ood["total_entropy"])["auroc"]


def test_mutual_information_of_one_member_detects_nothing(generator):
    one, two = (Predictive(torch.randn(1, n, 4, generator=generator)) for n in (6, 3))
    result = ood_metrics(ood_scores(one), ood_scores(two))
    assert result["auroc[mutual_information]"] == 0.5
    assert result["fpr95[mutual_information]"] == 1


def test_splits_of_a_single_example(predictives):
    scores = []
    for predictive in predictives:
        metric = OODScores()
        metric.update(Predictive(predictive.member_logits[:, :1]))
        scores.append(metric.compute())
    assert all(value in (0, 0.5, 1) for value in ood_metrics(*scores).values())
