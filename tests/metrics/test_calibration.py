import numpy as np
import pytest
import torch

from uqbench.errors import ConfigError
from uqbench.metrics.calibration import (
    AdaptiveCalibrationError,
    CalibrationError,
    ClasswiseCalibrationError,
    MaximumCalibrationError,
    MemberCalibrationError,
    adaptive_calibration_error,
    bin_index,
    calibration_bins,
    calibration_error,
    classwise_calibration_error,
    maximum_calibration_error,
    member_calibration_error,
)


def brute_force(confidence, correct, edges):
    """The gaps and counts of bins (lo, hi], with 0 in the first, example by example."""
    confidence, correct = confidence.double().numpy(), correct.double().numpy()
    gaps, counts = [], []
    for b in range(len(edges) - 1):
        inside = (confidence > edges[b]) & (confidence <= edges[b + 1])
        if b == 0:
            inside |= confidence == 0
        counts.append(inside.sum())
        gaps.append(abs(confidence[inside].mean() - correct[inside].mean()) if inside.any() else 0.0)
    return np.array(gaps), np.array(counts)


@pytest.fixture
def pairs(generator):
    confidence = torch.rand(203, generator=generator) ** 0.3
    return confidence, torch.rand(203, generator=generator) < confidence**2


def test_by_hand():
    # Bins of 0.5: (0, 0.5] holds 0.2 wrong and 0.5 right; (0.5, 1] holds 0.6 right, 1.0 right and 1.0 wrong.
    confidence = torch.tensor([0.2, 0.5, 0.6, 1.0, 1.0])
    correct = torch.tensor([0, 1, 1, 1, 0])
    first, second = abs(0.35 - 0.5), abs(2.6 / 3 - 2 / 3)
    assert calibration_error(confidence, correct, 2).item() == pytest.approx(0.4 * first + 0.6 * second, abs=1e-7)
    assert maximum_calibration_error(confidence, correct, 2).item() == pytest.approx(second, abs=1e-7)


def test_against_brute_force(pairs):
    gaps, counts = brute_force(*pairs, np.arange(16) / 15)
    assert calibration_error(*pairs).item() == pytest.approx((gaps * counts).sum() / counts.sum(), abs=1e-12)
    assert maximum_calibration_error(*pairs).item() == pytest.approx(gaps.max(), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_bins", [1, 7, 10, 15])
def test_edges_belong_to_the_lower_bin_and_one_to_the_last(dtype, num_bins):
    edges = (torch.arange(num_bins + 1, dtype=torch.float64) / num_bins).to(dtype)
    expected = torch.arange(-1, num_bins).clamp_min(0)
    assert bin_index(edges, num_bins).equal(expected)
    above = torch.nextafter(edges[:-1], torch.ones((), dtype=dtype))
    assert bin_index(above, num_bins).equal(torch.arange(num_bins))


def test_certainty_has_no_bin_of_its_own():
    # torchmetrics 1.9 puts confidence 1.0 into a bin beyond the last, and reports 0.075 here.
    confidence = torch.cat([torch.full((50,), 0.95), torch.ones(50)])
    correct = torch.arange(100) < 95
    assert calibration_error(confidence, correct, 10).item() == pytest.approx(0.975 - 0.95, abs=1e-7)


def test_bins_are_those_of_the_diagram(pairs):
    metric = CalibrationError(num_bins=10)
    metric.update(*pairs)
    bins = metric.bins()
    _, counts = brute_force(*pairs, np.arange(11) / 10)
    assert bins.count.tolist() == counts.tolist()
    assert bins.edges.tolist() == pytest.approx([b / 10 for b in range(11)])
    assert bins.confidence[bins.count == 0].isnan().all() and bins.accuracy[bins.count == 0].isnan().all()
    seen = bins.count > 0
    gaps = (bins.confidence - bins.accuracy)[seen].abs()
    assert (gaps * bins.count[seen]).sum().item() / 203 == pytest.approx(metric.compute().item(), abs=1e-12)
    assert calibration_bins(*pairs, 10).accuracy[seen].equal(bins.accuracy[seen])


def test_empty_bins_all_right_and_all_wrong():
    certain = torch.ones(4)
    for function in (calibration_error, maximum_calibration_error, adaptive_calibration_error):
        assert function(certain, torch.ones(4)) == 0
        assert function(certain, torch.zeros(4)) == 1
        assert function(torch.tensor([0.3]), torch.tensor([1])).item() == pytest.approx(0.7, abs=1e-7)
        assert function(torch.zeros(2), torch.zeros(2)) == 0


def test_soft_correctness():
    confidence, correct = torch.tensor([0.9, 0.9]), torch.tensor([0.3, 0.6])
    assert calibration_error(confidence, correct).item() == pytest.approx(0.45, abs=1e-7)


def test_adaptive_bins_have_equal_mass(generator):
    confidence = torch.rand(60, generator=generator)
    correct = torch.rand(60, generator=generator) < 0.5
    order = confidence.argsort()
    gaps = [abs(confidence[i].double().mean() - correct[i].double().mean()) for i in order.chunk(5)]
    assert adaptive_calibration_error(confidence, correct, 5).item() == pytest.approx(np.mean(gaps), abs=1e-12)


def test_adaptive_ties_share_the_bin_of_their_middle():
    # Ranks 0 | 1 2 3 tied | 4 5 in two bins of three: the tie's middle, rank 2.5, is in the first.
    confidence = torch.tensor([0.1, 0.5, 0.5, 0.5, 0.8, 0.9])
    correct = torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0, 1.0])
    by_hand = (abs(1.6 - 1.0) + abs(1.7 - 2.0)) / 6
    for _ in range(20):
        order = torch.randperm(6)
        value = adaptive_calibration_error(confidence[order], correct[order], 2).item()
        assert value == pytest.approx(by_hand, abs=1e-7)


def test_classwise_is_the_mean_of_one_versus_rest(generator):
    probs = (2 * torch.randn(150, 4, generator=generator)).softmax(-1)
    target = torch.randint(4, (150,), generator=generator)
    expected = np.mean([calibration_error(probs[:, c], target == c, 10).item() for c in range(4)])
    assert classwise_calibration_error(probs, target, 10).item() == pytest.approx(expected, abs=1e-12)


def test_classwise_of_certain_predictions():
    probs = torch.eye(3)
    assert classwise_calibration_error(probs, torch.arange(3)) == 0
    assert classwise_calibration_error(probs, (torch.arange(3) + 1) % 3).item() == pytest.approx(2 / 3)


def test_members_are_calibrated_one_by_one():
    # One member is under-, one overconfident by 0.2: pooled they would look calibrated.
    confidence = torch.full((2, 10), 0.5)
    correct = torch.stack([torch.arange(10) < 7, torch.arange(10) < 3])
    assert member_calibration_error(confidence, correct).item() == pytest.approx(0.2)
    metric = MemberCalibrationError(3)
    with pytest.raises(ValueError, match="3 members"):
        metric.update(confidence, correct)


def test_streaming_equals_the_functions(pairs, stream, generator):
    for make, function in [
        (CalibrationError, calibration_error),
        (MaximumCalibrationError, maximum_calibration_error),
        (AdaptiveCalibrationError, adaptive_calibration_error),
    ]:
        torch.testing.assert_close(stream(make, *pairs), function(*pairs), rtol=1e-12, atol=0)
    probs = torch.randn(90, 4, generator=generator).softmax(-1)
    target = torch.randint(4, (90,), generator=generator)
    streamed = stream(lambda: ClasswiseCalibrationError(4), probs, target)
    torch.testing.assert_close(streamed, classwise_calibration_error(probs, target), rtol=1e-12, atol=0)
    confidence = torch.rand(3, 90, generator=generator)
    correct = torch.rand(3, 90, generator=generator) < 0.5
    streamed = stream(lambda: MemberCalibrationError(3), confidence, correct, axis=1)
    torch.testing.assert_close(streamed, member_calibration_error(confidence, correct), rtol=1e-12, atol=0)


def test_row_order_does_not_matter(pairs, generator):
    confidence, correct = pairs
    confidence = (confidence * 20).round() / 20
    order = torch.randperm(len(confidence), generator=generator)
    for function in (calibration_error, maximum_calibration_error, adaptive_calibration_error):
        shuffled = function(confidence[order], correct[order])
        torch.testing.assert_close(shuffled, function(confidence, correct), rtol=1e-12, atol=0)


def test_memory_of_the_equal_width_metrics_does_not_grow(pairs):
    metric = CalibrationError()
    for _ in range(3):
        metric.update(*pairs)
    assert metric.sums.shape == (3, 1, 15)


def test_settings_are_checked():
    for make in (CalibrationError, AdaptiveCalibrationError, lambda num_bins: ClasswiseCalibrationError(3, num_bins)):
        with pytest.raises(ConfigError, match="num_bins"):
            make(num_bins=0)
    with pytest.raises(ValueError, match="3 classes"):
        ClasswiseCalibrationError(3).update(torch.ones(2, 4) / 4, torch.tensor([0, 1]))
