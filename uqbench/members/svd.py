"""Singular value decompositions of frozen weights: once, in float64 on the CPU, and cached on disk by weight hash.

A decomposition is not unique inside clusters of equal singular values, where another driver or device may return
another basis and singular value k would mean another direction. Decomposing always on the CPU in float64, fixing the
signs and keeping the result under the weight's hash makes a member's singular values mean the same in every run.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from uqbench.errors import UqbenchError
from uqbench.files import write_safely


class Factors(NamedTuple):
    """A batch of thin decompositions W = U diag(S) Vh, float32, of G stacked matrices."""

    U: Tensor  # [G, o, k]
    S: Tensor  # [G, k]
    Vh: Tensor  # [G, k, i]


def decompose(weight: Tensor) -> Factors:
    """The thin SVD of ``weight`` ``[G, o, i]``, k = min(o, i), computed in float64 on the CPU, from the cache if there.

    The signs are fixed so that the entry of largest magnitude of every left vector is positive.
    """
    weight = weight.detach().cpu().contiguous()
    path = cache_dir() / f"{tensor_hash(weight)}.safetensors"
    cached = _read(path)
    if cached is not None and cached.U.shape[:2] == weight.shape[:2] and cached.Vh.shape[2] == weight.shape[2]:
        return cached
    U, S, Vh = torch.linalg.svd(weight.double(), full_matrices=False)
    largest = U.abs().argmax(dim=1, keepdim=True)
    sign = torch.where(U.gather(1, largest) < 0, -1.0, 1.0)
    factors = Factors((U * sign).float(), S.float(), (Vh * sign.mT).float())
    _write(path, factors)
    return factors


def tensor_hash(tensor: Tensor) -> str:
    """A SHA-256 hash of a tensor's type, shape and content."""
    tensor = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def cache_dir() -> Path:
    """``$UQBENCH_CACHE/svd``, by default ``~/.cache/uqbench/svd``."""
    return Path(os.environ.get("UQBENCH_CACHE", Path.home() / ".cache" / "uqbench")) / "svd"


def _read(path: Path) -> Factors | None:
    from safetensors.torch import load_file

    try:
        return Factors(**load_file(path))
    except Exception:  # missing, truncated or foreign: the decomposition is made again and replaces it
        return None


def _write(path: Path, factors: Factors) -> None:
    from safetensors.torch import save_file

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: factor.contiguous() for name, factor in factors._asdict().items()}
        write_safely(path, lambda temporary: save_file(tensors, temporary))
    except (OSError, UqbenchError):
        # A read-only or full home costs the next start a few seconds, not this run its life.
        return
