"""Named random streams: every draw of a run is a function of its seed, a name and a counter.

Nothing in uqbench reads a random state that an earlier step left behind. A stream is asked for by what it is for,
``generator(seed, "augment", epoch, batch)``, and starts from a hash of exactly that. A run that resumes at epoch 7
therefore draws what the uninterrupted run drew there, without any random state in its checkpoint, and member 3 of an
ensemble is the same whether it has 4 or 16 members.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def named_seed(seed: int, *name: str | int) -> int:
    """Derives a 63-bit seed from the run's seed and a name.

    Args:
        seed: the run's seed.
        *name: what the stream is for, followed by counters such as epoch, batch or member.

    Returns:
        A seed that is the same in every process, and independent for different names.
    """
    text = "/".join(str(part) for part in (seed, *name))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *name: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator at the start of the stream ``name`` of ``seed`` (see `named_seed`)."""
    return torch.Generator(device=device).manual_seed(named_seed(seed, *name))


@contextmanager
def seeded(seed: int, *name: str | int) -> Iterator[None]:
    """Runs a block whose *global* torch draws (dropout, library initialisers) come from a named stream.

    The random state of the CPU and of every CUDA device is put back afterwards, so that the block leaves no trace.
    """
    with torch.random.fork_rng():
        torch.manual_seed(named_seed(seed, *name))
        yield
