"""From one vector to words that no vocabulary has: the two mapping networks of ClipCap (arXiv 2111.09734)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from binderclip.errors import InputError

__all__ = ["MLPMapper", "TransformerMapper", "make_mapper"]


class MLPMapper(nn.Module):
    """``Linear(D -> floor(k C / 2)), tanh, Linear(-> k C)``: ``[N, D] -> [N, k, C]``; one hidden layer."""

    def __init__(self, dim: int, width: int, prefix: int) -> None:
        super().__init__()
        self.prefix, self.width = prefix, width
        self.inner = nn.Linear(dim, prefix * width // 2)
        self.outer = nn.Linear(prefix * width // 2, prefix * width)

    def forward(self, v: Tensor) -> Tensor:
        """Vectors to prefixes."""
        out: Tensor = self.outer(self.inner(v).tanh())
        return out.view(-1, self.prefix, self.width)


class _Block(nn.Module):
    """Pre-norm attention and MLP; no bias in q, k and v, ReLU, nothing dropped."""

    def __init__(self, width: int, heads: int, ratio: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, int(ratio * width)), nn.Linear(int(ratio * width), width)

    def forward(self, x: Tensor) -> Tensor:
        n, s, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, s, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, s, c))
        y: Tensor = x + self.down(F.relu(self.up(self.norm2(x))))
        return y


class TransformerMapper(nn.Module):
    """m "clip tokens" ``Linear(D -> m C)`` and k learned constants through pre-norm layers; the last k come out.

    Args:
        dim: D.
        width: C of the language model.
        prefix: k.
        clip_length: m.
        layers: of the transformer.
        heads: of its attention.
        ratio: inner width of its MLPs over C.
    """

    def __init__(
        self,
        dim: int,
        width: int,
        prefix: int,
        clip_length: int = 10,
        layers: int = 8,
        heads: int = 8,
        ratio: float = 2.0,
    ) -> None:
        super().__init__()
        if width % heads:
            raise InputError(f"width {width} does not divide into {heads} heads: choose another number of heads")
        self.prefix, self.clip_length, self.width = prefix, clip_length, width
        self.lift = nn.Linear(dim, clip_length * width)
        self.constants = nn.Parameter(torch.randn(prefix, width))
        self.blocks = nn.ModuleList(_Block(width, heads, ratio) for _ in range(layers))

    def forward(self, v: Tensor) -> Tensor:
        """``[N, D] -> [N, k, C]``."""
        u = self.lift(v).view(-1, self.clip_length, self.width)
        x = torch.cat([u, self.constants.expand(len(u), -1, -1)], dim=1)
        for block in self.blocks:
            x = block(x)
        return x[:, self.clip_length :]


def make_mapper(kind: str, dim: int, width: int, prefix: int, clip_length: int, layers: int, heads: int) -> nn.Module:
    """``mlp`` or ``transformer``.

    Raises:
        InputError: another kind.
    """
    if kind == "mlp":
        return MLPMapper(dim, width, prefix)
    if kind == "transformer":
        return TransformerMapper(dim, width, prefix, clip_length, layers, heads)
    raise InputError(f"no mapper is called {kind!r}: use mlp or transformer")
