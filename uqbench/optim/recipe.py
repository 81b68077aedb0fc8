"""The optimiser and its schedule, from typed settings."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch

from uqbench.errors import check


class Recipe:
    """An optimiser, a learning-rate schedule and a gradient clip.

    Args:
        name: the recipe's name in records.
        optimizer: ``adamw``, ``adam`` (weight decay as L2 penalty) or ``sgd``.
        lr: peak learning rate.
        head_lr_factor: the heads, which start from scratch, learn at ``lr`` times this.
        weight_decay: as the optimiser defines it.
        betas: of Adam and AdamW.
        momentum: of SGD.
        nesterov: of SGD.
        schedule: after the warm-up: half a ``cosine`` to 0, ``constant``, or ``multistep``.
        interval: whether the schedule moves per ``epoch`` or per ``step``; warm-up and milestones count in it.
        warmup: length of the linear warm-up; its i-th value is (i + 1) / warmup.
        milestones: where ``multistep`` multiplies by ``gamma``.
        gamma: see ``milestones``.
        clip_norm: largest global norm of the gradient; None for no clipping.
    """

    def __init__(
        self,
        name: str = "adamw",
        optimizer: Literal["adamw", "adam", "sgd"] = "adamw",
        lr: float = 1e-3,
        head_lr_factor: float = 1.0,
        weight_decay: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.999),
        momentum: float = 0.9,
        nesterov: bool = False,
        schedule: Literal["cosine", "constant", "multistep"] = "cosine",
        interval: Literal["epoch", "step"] = "epoch",
        warmup: int = 0,
        milestones: list[int] | tuple[int, ...] = (),
        gamma: float = 0.1,
        clip_norm: float | None = None,
    ):
        check(lr > 0, f"optim.lr must be positive, got {lr}")
        check(head_lr_factor > 0, f"optim.head_lr_factor must be positive, got {head_lr_factor}")
        check(weight_decay >= 0, f"optim.weight_decay must not be negative, got {weight_decay}")
        check(warmup >= 0, f"optim.warmup must not be negative, got {warmup}")
        check(clip_norm is None or clip_norm > 0, f"optim.clip_norm must be positive or null, got {clip_norm}")
        check(schedule != "multistep" or len(milestones) > 0, "optim.schedule=multistep needs optim.milestones")
        self.name, self.optimizer, self.lr, self.weight_decay, self.clip_norm = (
            name, optimizer, lr, weight_decay, clip_norm,
        )  # fmt: skip
        self.momentum, self.nesterov, self.betas = momentum, nesterov, (betas[0], betas[1])
        self.head_lr_factor = head_lr_factor
        self.schedule, self.interval, self.warmup = schedule, interval, warmup
        self.milestones, self.gamma = tuple(milestones), gamma

    def factor(self, t: int, total: int) -> float:
        """The learning rate over its peak at epoch or step ``t`` of ``total``."""
        if t < self.warmup:
            return (t + 1) / self.warmup
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * (t - self.warmup) / max(1, total - self.warmup)))
        if self.schedule == "multistep":
            return self.gamma ** sum(t >= milestone for milestone in self.milestones)
        return 1.0

    def build(self, groups: list[dict[str, Any]], epochs: int, steps: int) -> dict[str, Any]:
        """What `LightningModule.configure_optimizers` returns.

        Args:
            groups: parameter groups, see `Method.parameter_groups`.
            epochs: epochs of the fit.
            steps: optimiser steps of the fit.
        """
        optimizer: torch.optim.Optimizer
        lr, decay = self.lr, self.weight_decay
        groups = [{**g, "lr": lr * (self.head_lr_factor if g.get("name") == "head" else 1)} for g in groups]
        if self.optimizer == "sgd":
            optimizer = torch.optim.SGD(
                groups, lr=lr, weight_decay=decay, momentum=self.momentum, nesterov=self.nesterov
            )
        else:
            kind = torch.optim.AdamW if self.optimizer == "adamw" else torch.optim.Adam
            optimizer = kind(groups, lr=lr, weight_decay=decay, betas=self.betas)
        total = epochs if self.interval == "epoch" else steps
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: self.factor(t, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": self.interval}}
