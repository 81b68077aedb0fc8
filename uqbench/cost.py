"""What a network costs: parameters, floating-point operations, time per example, memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from uqbench.members.network import AnyNetwork, Batch, Network, NetworkList


def count_parameters(network: AnyNetwork) -> dict[str, int]:
    """Numbers of parameters, each counted once.

    Returns:
        ``total``, ``trainable``; ``added``: what the method adds to one backbone with one head; ``factors``: frozen
        numbers that the method stores beside the weights (SVE: U, S and V).
    """
    total = sum(p.numel() for p in network.parameters())
    trainable = sum(p.numel() for p in network.parameters() if p.requires_grad)
    first = network.members[0] if isinstance(network, NetworkList) else network
    assert isinstance(first, Network)
    wrappers = [module for module in network.modules() if hasattr(module, "base_layer")]
    owned = {id(p) for wrapper in wrappers for p in wrapper.parameters(recurse=False)}
    backbone = sum(p.numel() for p in first.backbone.parameters() if id(p) not in owned)
    head = first.head.weight[0].numel() + first.head.bias[0].numel()
    factors = sum(buffer.numel() for wrapper in wrappers for buffer in wrapper.buffers(recurse=False))
    return {"total": total, "trainable": trainable, "added": total - backbone - head, "factors": factors}


@torch.no_grad()
def count_flops(network: AnyNetwork, batch: Batch) -> float:
    """Floating-point operations of one prediction per example (two per multiply-add), by torch's counter."""
    network.eval()
    network(batch)  # what is built once, such as cached member weights, is not part of a prediction
    with FlopCounterMode(display=False) as counter:
        network(batch)
    return counter.get_total_flops() / len(batch["index"])


@torch.no_grad()
def time_per_example(predict: Callable[[], object], rows: int, repeats: int = 5) -> float:
    """Median wall-clock milliseconds per example of ``predict``, after one warm-up."""
    synchronise = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    seconds = []
    for _ in range(repeats + 1):
        synchronise()
        start = time.perf_counter()
        predict()
        synchronise()
        seconds.append(time.perf_counter() - start)
    return 1e3 * sorted(seconds[1:])[repeats // 2] / rows


def peak_memory_mb() -> float:
    """Peak memory in MB: allocated on the GPU if there is one, else resident in this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    return peak_resident_mb()


def peak_resident_mb() -> float:
    """Peak resident memory of this process in MB.

    Linux's VmHWM is preferred to ``ru_maxrss``, which a child process inherits from the one that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
