r"""Layers whose members share singular vectors and own singular values (SVE, arXiv 2601.22068).

With the frozen weight's thin decomposition :math:`W = U \mathrm{diag}(S) V^\top`, member m computes

.. math:: y_m = U \mathrm{diag}(s_m) V^\top x + b_m, \qquad s_m = S \odot (1 + \epsilon_m), \quad b_m = b + \eta_m

at the start, with noise of standard deviation sigma: multiplicative on the singular values, additive on the biases
(note A1.1). Three forms of one computation:

- *materialised*: build :math:`W_m = W + U \mathrm{diag}(s_m - S) V^\top`, then one batched product;
- *factored*: :math:`((x V) \odot s_m) U^\top`, two products with shared matrices, nothing of size M x o x i;
- *cached*: materialised once and kept while nothing is trained.

`choose_form` picks by the number of multiplications. Weights are built in float32 and applied in the input's type: a
bfloat16 rebuild would cost a third of the initial noise in rounding (note D.9).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uqbench.members.axis import fold, unfold
from uqbench.members.svd import decompose
from uqbench.seeding import generator

Form = Literal["auto", "materialised", "factored", "cached"]
Decay = Literal["zero", "pretrained", "none"]


def choose_form(rows: int, out_features: int, in_features: int, rank: int, full: bool, training: bool) -> Form:
    """The cheaper of the materialised and the factored form, by multiplications per member.

    Forward and, in training, backward to the input and the singular values; the frozen U and V need no gradient.

    Args:
        rows: tokens times examples that one member sees.
        out_features, in_features: o and i of one group's matrix.
        rank: singular values per group, k.
        full: whether all singular values are adapted; if not, the factored form adds the frozen weight's product.
        training: whether a backward pass follows.
    """
    dense, low_rank = out_features * in_features, rank * (out_features + in_features)
    build = rank * dense
    # Materialised: forward, input gradient, weight gradient; the build and its gradient with respect to s.
    materialised = 3 * rows * dense + 2 * build if training else rows * dense + build
    factored = (2 if training else 1) * rows * (low_rank if full else low_rank + dense)
    return "materialised" if materialised <= factored else "factored"


class SingularLayer(nn.Module):
    """Common part of `SingularLinear` and `SingularConv2d`: parameters, initialisation and the three forms.

    Args:
        base_layer: the frozen layer that it replaces; its weight is kept once, for all members.
        matrix: the weight as G stacked matrices ``[G, o, i]``.
        num_members: M.
        name: the layer's name in the network, which its random streams are derived from.
        seed: the run's seed.
        noise: sigma, the standard deviation of the initial noise.
        top_k: adapt only the largest k singular values of each matrix (as SVFit); None for all.
        parametrisation: ``clamp``: s is trained directly and clamped at 0 (paper), which gives a direction that has
            reached 0 no gradient; ``log``: s = S exp(a) with a trained.
        decay: what weight decay pulls towards: ``zero`` (paper), the ``pretrained`` values, or ``none``.
        form: one of the three forms, or ``auto``.
        train_bias: whether members own biases where the layer has one.

    Attributes:
        singular: the trained ``[M, G, k]``.
        bias: the trained ``[M, C_out]``, or None.
        may_cache: whether ``auto`` may keep dense member weights in evaluation (they take M x o x i floats).
    """

    U: Tensor
    S: Tensor
    Vh: Tensor
    bias_reference: Tensor | None
    bias: nn.Parameter | None

    def __init__(
        self,
        base_layer: nn.Linear | nn.Conv2d,
        matrix: Tensor,
        num_members: int,
        name: str,
        seed: int,
        noise: float = 0.01,
        top_k: int | None = None,
        parametrisation: Literal["clamp", "log"] = "clamp",
        decay: Decay = "zero",
        form: Form = "auto",
        train_bias: bool = True,
    ):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.num_members, self.parametrisation, self.decay, self.form = num_members, parametrisation, decay, form
        U, S, Vh = (factor.to(matrix.device) for factor in decompose(matrix))
        self.full_rank = top_k is None or top_k >= S.shape[-1]
        if not self.full_rank:
            U, S, Vh = U[..., :top_k], S[..., :top_k], Vh[..., :top_k, :]
        for key, factor in (("U", U), ("S", S), ("Vh", Vh)):
            self.register_buffer(key, factor.contiguous(), persistent=False)

        eps = torch.stack([_noise(seed, m, name, "singular", S.shape) for m in range(num_members)]).to(S.device)
        relative = 1 + noise * eps
        if parametrisation == "log":
            initial = relative.clamp_min(1e-6).log()
        else:
            # Decay towards the pretrained values is decay of the deviation, so that is what is trained then.
            initial = (S * relative).clamp_min(0) - (S if decay == "pretrained" else 0)
        self.singular = nn.Parameter(initial)

        bias = base_layer.bias
        if bias is None or not train_bias:
            self.register_parameter("bias", None)
            self.register_buffer("bias_reference", None, persistent=False)
        else:
            eta = torch.stack([_noise(seed, m, name, "bias", bias.shape) for m in range(num_members)]).to(bias.device)
            reference = bias.detach() if decay == "pretrained" else torch.zeros_like(bias)
            self.register_buffer("bias_reference", reference.clone(), persistent=False)
            self.bias = nn.Parameter(bias.detach() - reference + noise * eta)
        self.may_cache = True
        self._cache: tuple[int, Tensor] | None = None

    def singular_values(self) -> Tensor:
        """The members' singular values ``[M, G, k]``, never negative."""
        if self.parametrisation == "log":
            return self.S * self.singular.exp()
        return (self.singular + self.S if self.decay == "pretrained" else self.singular).clamp_min(0)

    def member_bias(self) -> Tensor | None:
        """The members' biases ``[M, C_out]``; the frozen bias for all where members own none."""
        if self.bias is not None:
            assert self.bias_reference is not None
            return self.bias + self.bias_reference
        frozen = self.base_layer.bias
        return None if frozen is None else frozen.expand(self.num_members, -1)

    def member_weight(self) -> Tensor:
        """The members' dense weights ``[M, G, o, i]`` in float32: W + U diag(s_m - S) Vh."""
        with torch.autocast(self.U.device.type, enabled=False):
            change = self.singular_values() - self.S
            return self.frozen_matrix() + (self.U * change[:, :, None, :]) @ self.Vh

    def frozen_matrix(self) -> Tensor:
        """The frozen weight as ``[G, o, i]``."""
        raise NotImplementedError

    def weight_for(self, rows: int) -> Tensor | None:
        """The dense member weights if this call should use them, None for the factored form.

        Args:
            rows: tokens times examples that one member sees in this call.
        """
        still = not self.training and not torch.is_grad_enabled()
        if still and (self.form == "cached" or (self.form == "auto" and self.may_cache)):
            # An in-place change, as by an optimiser or load_state_dict, raises the version and so voids the cache.
            version = self.singular._version
            if self._cache is None or self._cache[0] != version:
                self._cache = (version, self.member_weight())
            return self._cache[1]
        form = self.form
        if form == "auto":
            (_, out_features, rank), in_features = self.U.shape, self.Vh.shape[-1]
            form = choose_form(rows, out_features, in_features, rank, self.full_rank, torch.is_grad_enabled())
        return None if form == "factored" else self.member_weight()

    def train(self, mode: bool = True) -> SingularLayer:
        """Sets the mode as usual and frees the cache."""
        self._cache = None
        return super().train(mode)

    def _apply(self, fn, recurse: bool = True):
        self._cache = None  # .to(), .half(): the parameters' storage is exchanged
        return super()._apply(fn, recurse)

    def undecayed(self) -> list[nn.Parameter]:
        """The parameters that weight decay must leave alone."""
        return [p for p in (self.singular, self.bias) if p is not None] if self.decay == "none" else []

    def extra_repr(self) -> str:
        groups, _, rank = self.U.shape
        return f"members={self.num_members}, groups={groups}, rank={rank}, form={self.form}"


class SingularLinear(SingularLayer):
    """A linear layer with member-specific singular values; maps ``[M*B, ..., i]`` to ``[M*B, ..., G*o]``.

    ``groups`` splits the output into stacked projections that are decomposed one by one (3 for a fused qkv).
    """

    def __init__(self, base_layer: nn.Linear, num_members: int, name: str, seed: int, groups: int = 1, **options):
        matrix = base_layer.weight.unflatten(0, (groups, -1))
        super().__init__(base_layer, matrix, num_members, name, seed, **options)

    def frozen_matrix(self) -> Tensor:
        return self.base_layer.weight.float().unflatten(0, (len(self.S), -1))

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape
        x = unfold(x, self.num_members).flatten(1, -2)  # [M, rows, i]
        weight, bias = self.weight_for(x.shape[1]), self.member_bias()
        if weight is not None:
            dense = weight.flatten(1, 2).mT.to(x.dtype)
            y = torch.matmul(x, dense) if bias is None else torch.baddbmm(bias[:, None].to(x.dtype), x, dense)
        else:
            values = self.singular_values()
            scale = (values if self.full_rank else values - self.S).to(x.dtype)  # [M, G, k]
            inner = F.linear(x, self.Vh.flatten(0, 1).to(x.dtype)).unflatten(-1, self.S.shape) * scale[:, None]
            U = self.U.to(inner.dtype)
            mixed = F.linear(inner, U[0]) if len(U) == 1 else torch.einsum("mngk,gok->mngo", inner, U)
            y = mixed.flatten(2)
            if not self.full_rank:
                y = y + F.linear(x, self.base_layer.weight.to(x.dtype))
            if bias is not None:
                y = y + bias[:, None].to(y.dtype)
        return fold(y).reshape(*shape[:-1], -1)


class SingularConv2d(SingularLayer):
    """A convolution with member-specific singular values of its kernel as a matrix ``[C_out/G, C_in/G * kh * kw]``.

    Grouped convolutions are decomposed group by group. In the factored form (SVF, NeurIPS 2022) V is a convolution with
    k filters, the singular values scale its channels, and U is a 1 x 1 convolution.
    """

    base_layer: nn.Conv2d

    def __init__(self, base_layer: nn.Conv2d, num_members: int, name: str, seed: int, **options):
        matrix = base_layer.weight.unflatten(0, (base_layer.groups, -1)).flatten(2)
        super().__init__(base_layer, matrix, num_members, name, seed, **options)

    def frozen_matrix(self) -> Tensor:
        return self.base_layer.weight.float().unflatten(0, (self.base_layer.groups, -1)).flatten(2)

    def _convolve(self, x: Tensor, weight: Tensor, groups: int) -> Tensor:
        layer = self.base_layer
        if layer.padding_mode != "zeros":
            x = F.pad(x, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
            return F.conv2d(x, weight, None, layer.stride, 0, layer.dilation, groups)
        return F.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation, groups)

    def forward(self, x: Tensor) -> Tensor:
        layer, members = self.base_layer, self.num_members
        height, width = x.shape[-2:]
        pixels = (height // layer.stride[0]) * (width // layer.stride[1])
        weight, bias = self.weight_for(len(x) // members * pixels), self.member_bias()
        if weight is not None:
            # One convolution with M x groups: members become groups, [M*B, C, H, W] -> [B, M*C, H, W].
            kernel = weight.reshape(-1, *layer.weight.shape[1:]).to(x.dtype)
            x = unfold(x, members).transpose(0, 1).flatten(1, 2)
            y = self._convolve(x, kernel, members * layer.groups)
            y = fold(y.unflatten(1, (members, -1)).transpose(0, 1))
        else:
            values = self.singular_values()
            scale = (values if self.full_rank else values - self.S).to(x.dtype)
            filters = self.Vh.reshape(-1, *layer.weight.shape[1:]).to(x.dtype)
            inner = unfold(self._convolve(x, filters, layer.groups), members) * scale.flatten(1)[:, None, :, None, None]
            mix = self.U.flatten(0, 1)[..., None, None].to(inner.dtype)
            y = F.conv2d(fold(inner), mix, groups=layer.groups)
            if not self.full_rank:
                y = y + self._convolve(x, layer.weight.to(x.dtype), layer.groups)
        if bias is None:
            return y
        return fold(unfold(y, members) + bias[:, None, :, None, None].to(y.dtype))


def _noise(seed: int, member: int, name: str, what: str, shape: torch.Size) -> Tensor:
    """Standard normal draws of one member's one tensor, the same for every number of members."""
    return torch.randn(shape, generator=generator(seed, "member", member, name, what))
