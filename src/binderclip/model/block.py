"""The transformer block that serves almost every published tower.

``x + Attention(norm(x))``, then ``x + MLP(norm(x))`` (Vaswani et al. 2017, arXiv 1706.03762), with what the field has
varied since: pre-, post- or sub-norm, LayerNorm or RMSNorm, four activations, biases per q, k and v, rotary positions
in both conventions, ALiBi and layer scale.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from binderclip.errors import InputError
from binderclip.model.base import AttentionState, SiteFunction, State
from binderclip.model.positions import ALiBi, Rotary

__all__ = ["ACTIVATIONS", "MLP", "Attention", "Block", "LayerScale", "make_norm"]


def quick_gelu(x: Tensor) -> Tensor:
    """``x sigmoid(1.702 x)``: OpenAI's models and those that started from them."""
    return x * torch.sigmoid(1.702 * x)


def tanh_gelu(x: Tensor) -> Tensor:
    """GELU with the tanh approximation (SigLIP)."""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "quick_gelu": quick_gelu,
    "gelu_tanh": tanh_gelu,
    "relu": F.relu,
    "silu": F.silu,
}


def make_norm(kind: str, width: int, eps: float) -> nn.Module:
    """``layer`` or ``rms`` norm over the last axis."""
    if kind == "layer":
        return nn.LayerNorm(width, eps=eps)
    if kind == "rms":
        return nn.RMSNorm(width, eps=eps)
    raise InputError(f"unknown norm {kind!r}: use 'layer' or 'rms'")


class Attention(nn.Module):
    """Multi-head self-attention (arXiv 1706.03762).

    Args:
        width: ``C``.
        heads: ``H``; the head width is ``d = C / H``.
        bias: whether q, k and v have a bias; one flag, or three (EVA has none on k).
        out_bias: whether the output projection has one.
        rotary: rotates q and k by their positions.
        alibi: adds a distance penalty to the logits.
        inner_norm: a norm on the heads' joined output (sub-norm).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        bias: bool | tuple[bool, bool, bool] = True,
        out_bias: bool = True,
        rotary: Rotary | None = None,
        alibi: ALiBi | None = None,
        inner_norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if width % heads:
            raise InputError(f"width {width} does not divide into {heads} heads")
        q, k, v = (bias, bias, bias) if isinstance(bias, bool) else bias
        self.width, self.heads, self.head_width = width, heads, width // heads
        self.scale = self.head_width**-0.5
        self.qkv = nn.Linear(width, 3 * width, bias=q and k and v)
        self._some = not (q and k and v) and (q or k or v)
        if self._some:  # single biases beside the joint weight; a missing one counts as zeros
            for name, has in zip("qkv", (q, k, v), strict=True):
                self.register_parameter(f"{name}_bias", nn.Parameter(torch.zeros(width)) if has else None)
        self.out = nn.Linear(width, width, bias=out_bias)
        self.rotary, self.alibi, self.inner_norm = rotary, alibi, inner_norm

    def _qkv_bias(self) -> Tensor | None:
        if not self._some:
            return self.qkv.bias
        parts = (getattr(self, f"{name}_bias") for name in "qkv")
        zeros = self.qkv.weight.new_zeros(self.width)
        return torch.cat([zeros if part is None else part for part in parts])

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v ``[N, H, S, d]`` of normed tokens ``[N, S, C]``, before rotary positions."""
        n, s = x.shape[:2]
        joint = F.linear(x, self.qkv.weight, self._qkv_bias())  # [N, S, 3C]
        q, k, v = joint.reshape(n, s, 3, self.heads, self.head_width).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def merge(self, heads: Tensor) -> Tensor:
        """Heads' outputs ``[N, H, S, d]`` through the output projection, ``[N, S, C]``."""
        joined = heads.transpose(1, 2).flatten(2)  # [N, S, C]
        if self.inner_norm is not None:
            joined = self.inner_norm(joined)
        out: Tensor = self.out(joined)
        return out

    def forward(self, x: Tensor, state: State, attn: SiteFunction | None = None) -> Tensor:
        """Attend.

        Args:
            x: normed tokens ``[N, S, C]``.
            state: the block's input, for masks and positions.
            attn: function of ``AttentionState`` from the ``attn`` site.
        """
        q, k, v = self.split(x)
        if self.rotary is not None:
            q, k = self.rotary(q, k, state)
        bias = state.attention_bias()
        if self.alibi is not None:
            distance = self.alibi(state)
            bias = distance if bias is None else bias + distance
        given = AttentionState(q, k, v, bias, self.scale, state)
        return self.merge(attend(given if attn is None else attn(given)))


def attend(a: AttentionState) -> Tensor:
    """Heads' outputs ``[N, H, S, d]``: a function's own, else fused attention of q, k, v and bias."""
    if a.output is not None:
        return a.output
    return F.scaled_dot_product_attention(a.q, a.k, a.v, attn_mask=a.bias, scale=a.scale)


class MLP(nn.Module):
    """``down(act(up(x)))``, or SwiGLU ``down(silu(gate(x)) * up(x))`` (Shazeer 2020, arXiv 2002.05202).

    Args:
        width: ``C``.
        hidden: inner width.
        activation: a key of ``ACTIVATIONS``, or ``swiglu``.
        bias: whether the layers have biases.
        inner_norm: a norm before ``down`` (sub-norm).
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        activation: str = "gelu",
        *,
        bias: bool = True,
        inner_norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if activation != "swiglu" and activation not in ACTIVATIONS:
            raise InputError(f"unknown activation {activation!r}: use one of {', '.join(ACTIVATIONS)}, swiglu")
        self.activation = activation
        self.gate = nn.Linear(width, hidden, bias=bias) if activation == "swiglu" else None
        self.up = nn.Linear(width, hidden, bias=bias)
        self.inner_norm = inner_norm
        self.down = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., C] -> [..., C]``."""
        up = self.up(x)
        inner = ACTIVATIONS[self.activation](up) if self.gate is None else F.silu(self.gate(x)) * up
        if self.inner_norm is not None:
            inner = self.inner_norm(inner)
        out: Tensor = self.down(inner)
        return out


class LayerScale(nn.Module):
    """``gamma * x`` per channel (Touvron et al. 2021, arXiv 2103.17239)."""

    def __init__(self, width: int, init: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), init))

    def forward(self, x: Tensor) -> Tensor:
        """Scale each channel."""
        return x * self.gamma


class Block(nn.Module):
    """One transformer block.

    Args:
        width: ``C``.
        heads: ``H``.
        mlp_ratio: inner width of the MLP over ``C``; ``mlp_hidden`` states it outright.
        activation: of the MLP: ``gelu``, ``quick_gelu``, ``gelu_tanh``, ``relu``, ``silu`` or ``swiglu``.
        norm: ``layer`` or ``rms``.
        eps: of the norms.
        order: ``pre`` (norm, then part), ``post`` (BERT: norm after adding), ``sub`` (pre, and a second norm inside
            attention and MLP: EVA-02).
        qkv_bias: one flag, or three for q, k and v.
        out_bias: bias of the attention's output projection.
        mlp_bias: biases of the MLP.
        layer_scale: start value of the per-channel factors, ``None`` for none.
        rotary: rotary positions.
        alibi: distance penalty.
        mlp: takes the MLP's place.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        mlp_hidden: int | None = None,
        activation: str = "gelu",
        norm: str = "layer",
        eps: float = 1e-5,
        order: str = "pre",
        qkv_bias: bool | tuple[bool, bool, bool] = True,
        out_bias: bool = True,
        mlp_bias: bool = True,
        layer_scale: float | None = None,
        rotary: Rotary | None = None,
        alibi: ALiBi | None = None,
        mlp: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if order not in ("pre", "post", "sub"):
            raise InputError(f"unknown norm order {order!r}: use 'pre', 'post' or 'sub'")
        hidden = mlp_hidden or int(width * mlp_ratio)
        inner = [make_norm(norm, w, eps) if order == "sub" else None for w in (width, hidden)]
        self.order = order
        self.norm1 = make_norm(norm, width, eps)
        self.attn = Attention(
            width, heads, bias=qkv_bias, out_bias=out_bias, rotary=rotary, alibi=alibi, inner_norm=inner[0]
        )
        self.norm2 = make_norm(norm, width, eps)
        self.mlp = mlp or MLP(width, hidden, activation, bias=mlp_bias, inner_norm=inner[1])
        self.scale1 = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)
        self.scale2 = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)

    def reset(self, depth: int) -> None:
        """The start values of arXiv 2103.00020: output projections shrink with the tower's depth."""
        width = self.attn.width
        inner = width**-0.5 * (2 * depth) ** -0.5
        stds = {self.attn.qkv: width**-0.5, self.attn.out: inner}
        if isinstance(self.mlp, MLP):
            stds |= {self.mlp.up: (2 * width) ** -0.5, self.mlp.down: inner}
            stds |= {} if self.mlp.gate is None else {self.mlp.gate: (2 * width) ** -0.5}
        for linear, std in stds.items():
            nn.init.normal_(linear.weight, std=std)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def forward(self, state: State, attn: SiteFunction | None = None) -> State:
        """One step of the tower; ``attn`` is the function at this block's ``attn`` site."""
        x = state.x  # [N, S, C]
        if self.order == "post":
            x = self.norm1(x + self.scale1(self.attn(x, state, attn)))
            return state.with_(x=self.norm2(x + self.scale2(self.mlp(x))))
        x = x + self.scale1(self.attn(self.norm1(x), state, attn))
        return state.with_(x=x + self.scale2(self.mlp(self.norm2(x))))
