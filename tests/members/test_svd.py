"""The decomposition and its cache on disk."""

from __future__ import annotations

import torch

from uqbench.members import svd


def test_reconstructs_the_weight_and_fixes_the_signs():
    weight = torch.randn(2, 10, 6)
    U, S, Vh = svd.decompose(weight)
    torch.testing.assert_close((U * S[:, None]) @ Vh, weight, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(S, torch.linalg.svdvals(weight), atol=1e-5, rtol=1e-5)
    assert (U.gather(1, U.abs().argmax(1, keepdim=True)) > 0).all()


def test_second_call_reads_the_cache(monkeypatch):
    weight = torch.randn(1, 5, 5)
    first = svd.decompose(weight)
    monkeypatch.setattr(torch.linalg, "svd", None)
    for a, b in zip(first, svd.decompose(weight), strict=True):
        assert torch.equal(a, b)


def test_damaged_cache_is_made_again():
    weight = torch.randn(1, 5, 5)
    first = svd.decompose(weight)
    path = svd.cache_dir() / f"{svd.tensor_hash(weight)}.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    for a, b in zip(first, svd.decompose(weight), strict=True):
        assert torch.equal(a, b)
    assert path.stat().st_size > 50


def test_unwritable_cache_is_no_error(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UQBENCH_CACHE", str(tmp_path / "file"))
    assert svd.decompose(torch.randn(1, 4, 4)).S.shape == (1, 4)


def test_hash_sees_values_shape_and_type():
    a = torch.arange(6.0)
    hashes = {svd.tensor_hash(t) for t in (a, a.view(2, 3), a.double(), a + 1)}
    assert len(hashes) == 4
