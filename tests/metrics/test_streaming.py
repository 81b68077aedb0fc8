import pytest
import torch

from uqbench.errors import DataError
from uqbench.metrics import (
    Accuracy,
    AdaptiveCalibrationError,
    Brier,
    CalibrationError,
    ClasswiseCalibrationError,
    Diversity,
    MaximumCalibrationError,
    MemberCalibrationError,
    NegativeLogLikelihood,
    OODScores,
    SelectiveRisk,
    TemperatureFit,
    Uncertainty,
)
from uqbench.metrics.streaming import MeanMetric, check_class_batch, check_pairs

EVERY = [
    Accuracy,
    AdaptiveCalibrationError,
    Brier,
    CalibrationError,
    lambda: ClasswiseCalibrationError(3),
    Diversity,
    MaximumCalibrationError,
    lambda: MemberCalibrationError(2),
    NegativeLogLikelihood,
    OODScores,
    SelectiveRisk,
    TemperatureFit,
    Uncertainty,
]


class Mean(MeanMetric):
    def update(self, values):
        self.add(values)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("make", EVERY)
def test_a_metric_without_examples_says_so(make):
    with pytest.raises(DataError, match="has seen no examples"):
        make().compute()


def test_sums_are_double_even_after_a_cast_of_the_module():
    values = torch.full((10_000,), 0.1)
    metric = Mean().to(torch.bfloat16)
    for batch in values.split(10):
        metric.update(batch)
    assert metric.compute().dtype == torch.float64
    torch.testing.assert_close(metric.compute(), values.double().mean(), rtol=1e-12, atol=0)


def test_reset_forgets():
    metric = Mean()
    metric.update(torch.ones(3))
    metric.reset()
    metric.update(torch.zeros(2))
    assert metric.compute() == 0


def test_an_empty_batch_changes_nothing():
    metric = Mean()
    metric.update(torch.zeros(0))
    metric.update(torch.tensor([2.0]))
    assert metric.compute() == 2


def test_shapes_and_types_are_checked():
    with pytest.raises(ValueError, match=r"\[B, C\]"):
        check_class_batch(torch.zeros(3, 2), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="integer"):
        check_class_batch(torch.zeros(3, 2), torch.zeros(3))
    with pytest.raises(ValueError, match="one shape"):
        check_pairs(torch.zeros(3), torch.zeros(2))
