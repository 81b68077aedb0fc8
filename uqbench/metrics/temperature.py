"""Temperature scaling (Guo et al. 2017, arXiv 1706.04599, section 4.2), for single networks and ensembles.

One temperature T > 0 for all members, fitted to the validation NLL of the prediction that is evaluated: of the mixture
1/M sum_m softmax(z_m / T), or of softmax(1/M sum_m z_m / T). Fitting the pooled prediction is not the same as averaging
calibrated members, which is underconfident (Rahaman & Thiery 2021, arXiv 2007.08792).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from uqbench.errors import TrainingError, check
from uqbench.metrics.streaming import StreamingMetric, require_examples
from uqbench.predictive import Average

LOWEST, HIGHEST, POINTS = 0.05, 20.0, 81


def temperature_grid(lowest: float = LOWEST, highest: float = HIGHEST, points: int = POINTS) -> list[float]:
    """``points`` temperatures, evenly spaced in their logarithm; the default grid has T = 1 in its middle."""
    check(0 < lowest < highest, f"temperatures need 0 < lowest < highest, got {lowest} and {highest}.")
    check(points >= 3, f"a grid of temperatures needs at least 3 points, got {points}.")
    return [lowest * (highest / lowest) ** (i / (points - 1)) for i in range(points)]


def grid_nll(member_logits: Tensor, target: Tensor, temperatures: list[float], average: Average) -> Tensor:
    """The summed NLL of a batch at each of G temperatures, ``[G]`` float64 nats."""
    if member_logits.ndim != 3 or target.shape != member_logits.shape[1:2]:
        raise ValueError(f"Expected [M, B, C] and [B], got {list(member_logits.shape)} and {list(target.shape)}.")
    logits = member_logits.detach()
    if logits.dtype not in (torch.float32, torch.float64):
        logits = logits.float()
    if average == "logits":
        logits = logits.mean(dim=0, keepdim=True)
    # At a low temperature large logits lose precision unless they are small where it matters.
    logits = logits - logits.amax(dim=-1, keepdim=True)
    picked = logits.gather(-1, target.long().expand(len(logits), -1).unsqueeze(-1)).squeeze(-1)
    sums = []
    for temperature in temperatures:
        log_probs = picked / temperature - torch.logsumexp(logits / temperature, dim=-1)
        sums.append(math.log(len(logits)) * len(target) - torch.logsumexp(log_probs, dim=0).double().sum())
    return torch.stack(sums)


def minimise(temperatures: list[float], nll: Tensor) -> Tensor:
    """The minimiser of ``nll [G]`` by quadratic interpolation in log T around the best grid point, a float64 scalar.

    Of several equal minima (to 1e-12) the one nearest to T = 1 is taken, so that an NLL which does not depend on T
    leaves the network as it is. Where the best point is the first or last of the grid, that point is the answer: the
    NLL of a network that is always right falls down to T = 0, and of one that is always wrong up to T = infinity.
    """
    logs = torch.tensor(temperatures, dtype=torch.float64).log()
    nll = nll.double().cpu()
    distance = logs.abs().masked_fill(nll > nll.min() + 1e-12, torch.inf)
    best = int(distance.argmin())
    if best in (0, len(logs) - 1):
        return logs[best].exp()
    left, middle, right = nll[best - 1 : best + 2].tolist()
    curvature = left - 2 * middle + right
    shift = (left - right) / (2 * curvature) if curvature > 0 else 0.0
    return (logs[best] + min(max(shift, -0.5), 0.5) * (logs[1] - logs[0])).exp()


def fit_temperature(
    member_logits: Tensor,
    target: Tensor,
    average: Average = "probs",
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    points: int = POINTS,
) -> Tensor:
    """`TemperatureFit` of ``member_logits [M, B, C]`` and ``target [B]`` at once."""
    require_examples(len(target), "fit_temperature")
    grid = temperature_grid(lowest, highest, points)
    return minimise(grid, _finite(grid_nll(member_logits, target, grid, average) / len(target)))


def _finite(nll: Tensor) -> Tensor:
    if not nll.isfinite().all():
        raise TrainingError(
            "The validation NLL is not finite, so no temperature fits it: the logits hold NaN or infinity. "
            "Evaluate in float32, or train with a lower learning rate."
        )
    return nll


class TemperatureFit(StreamingMetric):
    """Finds the temperature that minimises the validation NLL, without storing logits.

    Accumulates the NLL on a log-spaced grid in float64 and interpolates (`minimise`); the default grid's neighbours are
    8 % apart and the minimiser is found to within 1 %. An update costs one log-sum-exp over ``[M, B, C]`` per point.

    Args:
        average: what the prediction averages over members, as in `Predictive`.
        lowest: the lowest temperature; also the answer for a network that is always right.
        highest: the highest temperature.
        points: G, how many temperatures are tried.
    """

    higher_is_better = None
    total: Tensor
    count: Tensor

    def __init__(
        self,
        average: Average = "probs",
        lowest: float = LOWEST,
        highest: float = HIGHEST,
        points: int = POINTS,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check(average in ("probs", "logits"), f"average must be probs or logits, got {average!r}.")
        self.average: Average = average
        self.temperatures = temperature_grid(lowest, highest, points)
        self.add_sum("total", points)
        self.add_sum("count", dtype=torch.int64)

    def update(self, member_logits: Tensor, target: Tensor) -> None:
        """Adds unscaled ``member_logits [M, B, C]`` against ``target [B]``; `ValueError` when the shapes do not fit."""
        self.total = self.total + grid_nll(member_logits, target, self.temperatures, self.average)
        self.count = self.count + len(target)

    def compute(self) -> Tensor:
        """The temperature, a float64 scalar on the CPU.

        Raises:
            DataError: no examples were seen.
            TrainingError: the NLL is not finite.
        """
        return minimise(self.temperatures, self._nll())

    def curve(self) -> tuple[Tensor, Tensor]:
        """The grid's temperatures and the mean NLL at each, ``[G]`` and ``[G]``, float64 on the CPU."""
        with self.sync_context():
            return torch.tensor(self.temperatures, dtype=torch.float64), self._nll().cpu()

    def _nll(self) -> Tensor:
        require_examples(self.count, type(self).__name__)
        return _finite(self.total / self.count)
