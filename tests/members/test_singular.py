"""The SVE layers against explicit per-member layers with materialised weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from uqbench.members.axis import fold
from uqbench.members.singular import SingularConv2d, SingularLinear, choose_form

FORMS = ["materialised", "factored", "cached"]
M = 3


def explicit_weights(layer, groups: int) -> torch.Tensor:
    """W_m = U diag(s_m) Vh, group by group, from torch's SVD in float64 and the layer's singular values: [M, o, i]."""
    weight = layer.base_layer.weight.double().unflatten(0, (groups, -1)).flatten(2)
    U, S, Vh = torch.linalg.svd(weight, full_matrices=False)
    values = S.repeat(M, 1, 1)
    rank = layer.singular.shape[-1]
    values[..., :rank] = layer.singular_values().double()
    return torch.einsum("gok,mgk,gki->mgoi", U, values, Vh).flatten(1, 2)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("sizes", [(12, 24), (24, 12), (18, 18)])
@pytest.mark.parametrize("top_k", [None, 2])
def test_linear_equals_explicit_members(form, groups, sizes, top_k):
    torch.manual_seed(0)
    base = nn.Linear(*sizes)
    layer = SingularLinear(base, M, "layer", seed=1, groups=groups, noise=0.3, top_k=top_k, form=form).eval()
    x = torch.randn(M, 4, 5, sizes[0])
    weights = explicit_weights(layer, groups).float()
    expected = torch.stack([F.linear(x[m], weights[m], layer.member_bias()[m]) for m in range(M)])
    with torch.no_grad():
        torch.testing.assert_close(layer(fold(x)), fold(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "stride": 2, "groups": 2, "bias": False},
        {"kernel_size": 1},
        {"kernel_size": 3, "padding": 1, "padding_mode": "reflect", "dilation": 1},
        {"kernel_size": (3, 1), "padding": "same"},
    ],
)
@pytest.mark.parametrize("top_k", [None, 2])
def test_convolution_equals_explicit_members(form, options, top_k):
    torch.manual_seed(0)
    base = nn.Conv2d(4, 6, **options)
    layer = SingularConv2d(base, M, "layer", seed=1, noise=0.3, top_k=top_k, form=form).eval()
    x = torch.randn(M, 2, 4, 7, 7)
    weights = explicit_weights(layer, base.groups).float().view(M, *base.weight.shape)
    with torch.no_grad():
        expected = []
        for m in range(M):
            single = nn.Conv2d(4, 6, **options)
            single.weight.copy_(weights[m])
            if base.bias is not None:
                single.bias.copy_(layer.member_bias()[m])
            expected.append(single(x[m]))
        torch.testing.assert_close(layer(fold(x)), torch.cat(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", ["materialised", "factored"])
def test_bfloat16_is_as_close_as_a_bfloat16_layer(form):
    """Under autocast the error against float32 is that of an ordinary bfloat16 product, not of a bfloat16 SVD."""
    torch.manual_seed(0)
    layer = SingularLinear(nn.Linear(64, 64), M, "layer", seed=1, noise=0.1, form=form)
    x = torch.randn(M * 8, 64)
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = layer(x)
        plain = torch.cat(
            [
                F.linear(part, weight[0], bias)
                for part, weight, bias in zip(x.chunk(M), layer.member_weight(), layer.member_bias(), strict=True)
            ]
        )
    assert rounded.dtype == torch.bfloat16
    error, reference = (rounded.float() - exact).abs().mean(), (plain.float() - exact).abs().mean()
    assert error < (1.2 if form == "materialised" else 2.0) * reference


@pytest.mark.parametrize("form", FORMS)
def test_forms_agree_in_their_gradients(form):
    torch.manual_seed(0)
    base, x = nn.Linear(12, 36), torch.randn(M * 4, 12, requires_grad=True)
    gradients = []
    for kind in ("materialised", form):
        layer = SingularLinear(base, M, "layer", seed=1, groups=3, noise=0.3, form=kind)
        loss = layer(x).square().sum()
        gradients.append(torch.autograd.grad(loss, [x, layer.singular, layer.bias]))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-4)


def test_without_noise_a_member_is_the_pretrained_layer_to_the_last_bit():
    base = nn.Linear(12, 24)
    layer = SingularLinear(base, 1, "layer", seed=1, noise=0.0, form="materialised")
    assert torch.equal(layer.member_weight()[0, 0], base.weight)
    assert torch.equal(layer.member_bias()[0], base.bias)


def test_a_member_is_the_same_for_any_number_of_members():
    base = nn.Linear(12, 24)
    few, many = (SingularLinear(base, m, "layer", seed=1) for m in (4, 16))
    assert torch.equal(few.singular, many.singular[:4])
    assert torch.equal(few.bias, many.bias[:4])
    assert not torch.equal(few.singular[0], few.singular[1])
    assert not torch.equal(few.singular, SingularLinear(base, 4, "other", seed=1).singular)


def test_initial_noise_is_multiplicative_on_values_and_additive_on_biases():
    base = nn.Linear(200, 200)
    layer = SingularLinear(base, 8, "layer", seed=1, noise=0.05)
    relative = layer.singular_values() / layer.S - 1
    assert abs(relative.std() - 0.05) < 0.005 and abs(relative.mean()) < 0.005
    assert abs((layer.member_bias() - base.bias).std() - 0.05) < 0.005


@pytest.mark.parametrize("parametrisation, decay", [("clamp", "zero"), ("clamp", "pretrained"), ("log", "pretrained")])
def test_decay_pulls_to_zero_or_to_the_pretrained_values(parametrisation, decay):
    """AdamW with no gradient but decay: after many steps only the target of the decay is left."""
    base = nn.Linear(6, 6)
    layer = SingularLinear(base, 2, "layer", seed=1, noise=0.1, parametrisation=parametrisation, decay=decay)
    optimiser = torch.optim.SGD([layer.singular, layer.bias], lr=1.0, weight_decay=0.1)
    for parameter in (layer.singular, layer.bias):
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(200):
        optimiser.step()
    target, bias = (layer.S, base.bias) if decay == "pretrained" else (torch.zeros(1), torch.zeros(1))
    torch.testing.assert_close(layer.singular_values(), target.expand_as(layer.singular_values()), atol=1e-5, rtol=0)
    torch.testing.assert_close(layer.member_bias(), bias.expand_as(layer.member_bias()), atol=1e-5, rtol=0)


def test_singular_values_never_negative():
    layer = SingularLinear(nn.Linear(6, 6), 2, "layer", seed=1)
    with torch.no_grad():
        layer.singular.sub_(10)
    assert (layer.singular_values() == 0).all()
    logs = SingularLinear(nn.Linear(6, 6), 2, "layer", seed=1, parametrisation="log")
    with torch.no_grad():
        logs.singular.sub_(10)
    assert (logs.singular_values() > 0).all()


def test_cache_follows_the_parameters():
    layer = SingularLinear(nn.Linear(6, 6), 2, "layer", seed=1).eval()
    x = torch.randn(4, 6)
    with torch.no_grad():
        before = layer(x)
        layer.singular.mul_(2)
        after = layer(x)
        layer.form = "factored"
        torch.testing.assert_close(after, layer(x))
    assert not torch.allclose(before, after)


def test_cost_model_prefers_dense_weights_for_many_tokens_and_factors_for_few():
    sizes = {"out_features": 768, "in_features": 768, "rank": 768, "full": True}
    assert choose_form(rows=128 * 197, training=True, **sizes) == "materialised"
    assert choose_form(rows=128, training=False, **sizes) == "factored"
    # Forward only: rows * d^2 + d^3 against 2 rows d^2, which meet at rows = d.
    assert choose_form(rows=769, training=False, **sizes) == "materialised"
    assert choose_form(rows=767, training=False, **sizes) == "factored"


def test_frozen_weights_get_no_gradient_and_are_kept_once():
    layer = SingularLinear(nn.Linear(12, 12), 8, "layer", seed=1)
    layer(torch.randn(16, 12)).sum().backward()
    assert layer.base_layer.weight.grad is None and layer.base_layer.bias.grad is None
    assert sum(t.numel() for t in (layer.U, layer.Vh, layer.base_layer.weight)) == 3 * 144
    assert {name for name, p in layer.named_parameters() if p.requires_grad} == {"singular", "bias"}
