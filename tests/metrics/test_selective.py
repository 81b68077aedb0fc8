import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import auc, roc_auc_score

from uqbench.errors import ConfigError, DataError
from uqbench.metrics.selective import (
    SelectiveRisk,
    augrc,
    aurc,
    coverage_at_risk,
    excess_aurc,
    risk_at_coverage,
    risk_coverage_curve,
    selective_risk,
)


def orders(confidence):
    """Every order of the rows with decreasing confidence."""
    groups = [np.flatnonzero(confidence == value) for value in sorted(set(confidence.tolist()), reverse=True)]
    for parts in itertools.product(*(itertools.permutations(group) for group in groups)):
        yield np.concatenate([np.array(part) for part in parts])


def over_orders(confidence, risk, function):
    """The mean of a function of the selective risks at k = 1 .. n over all orders of the ties."""
    ranks = np.arange(1, len(risk) + 1)
    return np.mean([function(np.cumsum(risk[order]) / ranks) for order in orders(confidence)], axis=0)


def achievable_by_search(confidence, risk):
    """The smallest area of any subset of the thresholds that includes full coverage, by numerical integration."""
    values = sorted(set(confidence.tolist()), reverse=True)
    points = [((confidence >= value).sum(), risk[confidence >= value].sum()) for value in values]
    coverage = (np.arange(200_000) + 0.5) / 200_000 * len(risk)
    areas = []
    for size in range(len(points)):
        for subset in itertools.combinations(points[:-1], size):
            accepted, errors = zip((0, 0), *subset, points[-1], strict=True)
            areas.append(np.mean(np.interp(coverage, accepted, errors) / coverage))
    return min(areas)


TIED = np.array([0.9, 0.7, 0.7, 0.7, 0.5, 0.4, 0.4, 0.2])
WRONG = np.array([0, 0, 1, 0, 1, 0, 1, 1.0])
SOFT = np.array([0, 0.4, 0.7, 0.1, 1, 0.3, 0.7, 1.0])


@pytest.fixture
def pairs(generator):
    confidence = torch.rand(400, generator=generator)
    return confidence, (torch.rand(400, generator=generator) > confidence).float()


def tensors(*arrays):
    return [torch.tensor(array, dtype=torch.float64) for array in arrays]


def test_by_hand():
    # Risks of the k most confident: 0, 1/2, 1/3.
    confidence, risk = tensors([0.9, 0.6, 0.3], [0, 1, 0])
    assert aurc(confidence, risk).item() == pytest.approx((0.25 + (1 / 2 + 1 / 3) / 2) / 3)
    assert aurc(confidence, risk, "sum").item() == pytest.approx((1 / 2 + 1 / 3) / 3)
    # The hull leaves out the second threshold: no error up to 1/3, then linear to one error.
    assert aurc(confidence, risk, "achievable").item() == pytest.approx((1 - math.log(3) / 2) / 3)
    assert augrc(confidence, risk).item() == pytest.approx((0 + 0.5 + 1) / 9)
    assert excess_aurc(confidence, risk).item() == pytest.approx(aurc(confidence, risk).item() - 1 / 18)


@pytest.mark.parametrize("risk", [WRONG, SOFT])
def test_ties_are_the_mean_over_all_their_orders(risk):
    coverage = np.arange(1, 9) / 8
    pair = tensors(TIED, risk)
    # Risks are stored as float32.
    tolerance = {"abs": 1e-7}
    curve = risk_coverage_curve(*pair)
    assert curve.coverage.tolist() == coverage.tolist()
    assert curve.risk.numpy() == pytest.approx(over_orders(TIED, risk, lambda r: r), **tolerance)
    trapezoid = over_orders(TIED, risk, lambda r: auc(coverage, r))
    assert aurc(*pair).item() == pytest.approx(trapezoid, **tolerance)
    assert aurc(*pair, "sum").item() == pytest.approx(over_orders(TIED, risk, np.mean), **tolerance)
    generalised = over_orders(TIED, risk, lambda r: auc(np.r_[0, coverage], np.r_[0, r * coverage]))
    assert augrc(*pair).item() == pytest.approx(generalised, **tolerance)
    for k in range(1, 9):
        expected = over_orders(TIED, risk, lambda r, k=k: r[k - 1])
        assert risk_at_coverage(*pair, k / 8).item() == pytest.approx(expected, **tolerance)


@pytest.mark.parametrize("risk", [WRONG, SOFT])
def test_achievable_is_the_best_choice_of_thresholds(risk):
    assert aurc(*tensors(TIED, risk), "achievable").item() == pytest.approx(achievable_by_search(TIED, risk), abs=1e-5)


def test_an_oracle_has_no_excess(pairs):
    _, risk = pairs
    for convention in ("trapezoid", "sum", "achievable"):
        assert excess_aurc(-risk, risk, convention) == 0
        assert excess_aurc(1 - risk, risk.bool(), convention) == 0
        assert excess_aurc(*pairs, convention) > 0
    # The achievable area of the oracle is its limit in closed form (Geifman et al. 2019).
    error = risk.mean().item()
    assert aurc(-risk, risk, "achievable").item() == pytest.approx(error + (1 - error) * math.log(1 - error), abs=1e-7)


def test_augrc_from_the_auroc_of_failures(pairs):
    confidence, risk = pairs
    confidence = (10 * confidence).round()
    auroc = roc_auc_score(1 - risk, confidence)
    accuracy = 1 - risk.mean().item()
    expected = (1 - auroc) * accuracy * (1 - accuracy) + (1 - accuracy) ** 2 / 2
    assert augrc(confidence, risk).item() == pytest.approx(expected, abs=1e-7)


def test_the_three_conventions_agree_for_many_examples_of_good_order():
    confidence = torch.linspace(1, 0, 20_000)
    risk = (torch.arange(20_000) % 4 == 0) & (confidence < 0.5)
    areas = [aurc(confidence, risk, convention).item() for convention in ("trapezoid", "sum", "achievable")]
    assert max(areas) - min(areas) < 1e-4
    assert len(set(areas)) == 3


def test_coverage_at_risk_by_hand():
    confidence, risk = tensors(TIED, WRONG)
    # Thresholds accept 1, 4, 5, 7 or 8 examples, with risks 0, 1/4, 2/5, 3/7, 1/2.
    expected = {0: 1 / 8, 0.24: 1 / 8, 0.25: 4 / 8, 0.399: 4 / 8, 0.4: 5 / 8, 0.42: 5 / 8, 0.43: 7 / 8, 0.5: 1, 1: 1}
    for limit, coverage in expected.items():
        assert coverage_at_risk(confidence, risk, limit) == coverage, limit


def test_coverage_at_risk_takes_the_largest_coverage_not_the_first():
    confidence, risk = tensors([0.9, 0.8, 0.7, 0.6], [1, 0, 0, 0])
    assert coverage_at_risk(confidence, risk, 0.25) == 1
    assert coverage_at_risk(confidence, risk, 0.2) == 0


def test_a_tie_group_is_never_split():
    # The first of the tied rows is right, but no threshold accepts it alone.
    confidence, risk = tensors([0.9, 0.9, 0.1], [0, 1, 1])
    assert coverage_at_risk(confidence, risk, 0.1) == 0
    assert coverage_at_risk(confidence, risk, 0.5).item() == pytest.approx(2 / 3)


def test_coverage_at_risk_is_exact_for_round_limits():
    # One error in 200 is exactly 0.5 %, and a fractional risk of 0.1 is at most 10 % also in float32.
    confidence, risk = torch.arange(200, 0, -1.0), torch.zeros(200)
    risk[-1] = 1
    assert coverage_at_risk(confidence, risk, 0.005) == 1
    assert coverage_at_risk(confidence[:3], 1 - torch.full((3,), 0.9), 0.1) == 1


def test_risk_at_coverage_covers_at_least_that_share():
    confidence, risk = tensors(np.arange(10, 0, -1), [0, 0, 0, 0, 0, 0, 0, 1, 0, 0])
    assert [risk_at_coverage(confidence, risk, c).item() for c in (0.01, 0.7, 0.71, 1)] == [0, 0, 1 / 8, 1 / 10]
    assert 0.1 * 7 * 10 > 7 and risk_at_coverage(confidence, risk, 0.1 * 7) == 0


def test_all_right_all_wrong_and_constant_confidence():
    confidence = torch.linspace(0.1, 1, 10)
    right, wrong = (selective_risk(confidence, torch.full((10,), value)) for value in (0.0, 1.0))
    assert all(right[key] == 0 for key in ("aurc", "aurc_sum", "aurc_achievable", "eaurc", "augrc"))
    assert right["coverage_at_risk[0.005]"] == 1
    assert wrong["aurc"].item() == pytest.approx(0.9)  # the trapezoids start at a coverage of 1/n
    assert wrong["aurc_sum"] == wrong["aurc_achievable"] == 1
    assert wrong["augrc"] == 0.5
    assert wrong["eaurc"] == 0
    assert wrong["coverage_at_risk[0.1]"] == 0
    constant = risk_coverage_curve(torch.ones(8), torch.tensor(WRONG))
    assert constant.risk.tolist() == [0.5] * 8
    assert constant.aurc("achievable") == 0.5
    assert constant.accepted.tolist() == [8] and constant.thresholds.tolist() == [1]


def test_single_example():
    values = selective_risk(torch.tensor([0.7]), torch.tensor([1.0]))
    assert values["aurc"] == 0 and values["aurc_sum"] == values["aurc_achievable"] == 1 and values["augrc"] == 0.5
    assert values["risk_at_coverage[0.5]"] == 1 and values["coverage_at_risk[0.1]"] == 0


@pytest.mark.parametrize("soft", [False, True])
def test_row_order_does_not_matter(pairs, generator, soft):
    confidence, risk = (10 * pairs[0]).round() / 10, pairs[1]
    risk = risk * torch.rand(400, generator=generator) if soft else risk
    expected = selective_risk(confidence, risk)
    for _ in range(5):
        order = torch.randperm(400, generator=generator)
        shuffled = selective_risk(confidence[order], risk[order])
        for key, value in expected.items():
            # Counts of errors are exact; sums of fractions round in the last bits.
            assert shuffled[key].item() == (pytest.approx(value.item(), abs=1e-14) if soft else value.item()), key


def test_streaming_equals_the_function(pairs, stream):
    settings = {"coverages": (0.25, 1), "risks": (0.3,)}
    streamed = stream(lambda: SelectiveRisk(**settings), *pairs)
    expected = selective_risk(*pairs, **settings)
    assert list(streamed) == list(expected)
    assert [*streamed][-3:] == ["risk_at_coverage[0.25]", "risk_at_coverage[1]", "coverage_at_risk[0.3]"]
    assert all(streamed[key].item() == pytest.approx(expected[key].item(), abs=1e-14) for key in expected)


def test_the_metric_gives_its_curve(pairs):
    metric = SelectiveRisk()
    metric.update(*pairs)
    assert metric.curve().risk.equal(risk_coverage_curve(*pairs).risk)
    assert metric.curve().risk[-1].item() == pytest.approx(pairs[1].mean().item())


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="coverages"):
        SelectiveRisk(coverages=(0,))
    with pytest.raises(ConfigError, match="risks"):
        SelectiveRisk(risks=(5,))
    with pytest.raises(DataError, match="no examples"):
        selective_risk(torch.zeros(0), torch.zeros(0))
    with pytest.raises(ValueError, match="NaN"):
        selective_risk(torch.tensor([0.5, math.nan]), torch.zeros(2))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        selective_risk(torch.ones(2), torch.tensor([0.0, 2.0]))
    with pytest.raises(ValueError, match="convention"):
        aurc(torch.ones(2), torch.ones(2), "simpson")
