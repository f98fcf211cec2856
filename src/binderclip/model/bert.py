"""BERT-family text towers (Devlin et al. 2018, arXiv 1810.04805): BERT, RoBERTa, XLM-R, with a head into CLIP's space."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from binderclip.errors import InputError
from binderclip.model.base import At, SiteFunction, State, Tokens
from binderclip.model.block import Block
from binderclip.model.sites import run_blocks, site_names

__all__ = ["BertText"]


class BertText(nn.Module):
    """Token ids ``[N, L]`` to text features through a bidirectional, post-norm encoder.

    Args:
        vocab_size: rows of the token table.
        context_length: longest text, in tokens.
        width: ``C``.
        layers: number of blocks.
        heads: attention heads.
        embed_dim: ``D``, the joint space.
        position_offset: row of the first token's position: 0 in BERT, ``pad_id + 1 = 2`` in RoBERTa and XLM-R, whose
            tables are that much longer.
        pad_id: tokens with this id are hidden from attention and from the mean.
        pool: ``mean`` of the real tokens, ``cls`` (the first), or ``eos`` (the end index).
        proj: ``linear``, ``mlp`` (one hidden layer of width ``(C + D) / 2``, exact GELU) or ``none``.
        proj_bias: whether the projection has biases.
        activation: of the MLPs.
        mlp_hidden: inner width of the MLPs, ``4 C`` by default.
        eps: of the norms (1e-12 in BERT, 1e-5 in RoBERTa).
        token_types: rows of the segment table; the first is used; 0 for none.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        width: int,
        layers: int,
        heads: int,
        embed_dim: int,
        *,
        position_offset: int = 0,
        pad_id: int = 0,
        pool: str = "mean",
        proj: str = "linear",
        proj_bias: bool = False,
        activation: str = "gelu",
        mlp_hidden: int | None = None,
        eps: float = 1e-12,
        token_types: int = 2,
    ) -> None:
        super().__init__()
        if pool not in ("mean", "cls", "eos"):
            raise InputError(f"unknown text pooling {pool!r}: use 'mean', 'cls' or 'eos'")
        self.vocab_size, self.context_length, self.width = vocab_size, context_length, width
        self.embed_dim = width if proj == "none" else embed_dim
        self.position_offset, self.pad_id, self.pooling = position_offset, pad_id, pool
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positions = nn.Parameter(0.02 * torch.randn(context_length + position_offset, width))
        self.token_type = nn.Parameter(torch.zeros(token_types, width)) if token_types else None
        self.norm_pre = nn.LayerNorm(width, eps=eps)
        self.blocks = nn.ModuleList(
            Block(width, heads, activation=activation, mlp_hidden=mlp_hidden, eps=eps, order="post")
            for _ in range(layers)
        )
        self.proj = _projection(proj, width, embed_dim, proj_bias)

    @property
    def sites(self) -> tuple[str, ...]:
        """Names where a function may be put."""
        return site_names(len(self.blocks))

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Ids ``[N, L]`` to word vectors ``[N, L, C]``, before positions."""
        out: Tensor = self.token_embedding(ids)
        return out

    def embed(self, ids: Tensor, eos: Tensor | None = None) -> State:
        """Ids ``[N, L]`` to ``State``, positions added, before the first norm."""
        return self._place(self.embed_tokens(ids), ids != self.pad_id, eos)

    def _place(self, words: Tensor, mask: Tensor, eos: Tensor | None) -> State:
        if words.shape[1] > self.context_length:
            raise InputError(
                f"a text of {words.shape[1]} tokens is longer than this tower's {self.context_length}: cut it"
            )
        # RoBERTa counts real tokens only; padding comes last, so that the count is the place wherever it matters.
        positions = torch.arange(words.shape[1], device=words.device) + self.position_offset
        x = words + self.positions[positions].to(words.dtype)
        if self.token_type is not None:
            x = x + self.token_type[0]
        return State(x=x, positions=positions, mask=mask, index=eos)

    def enter(self, state: State) -> State:
        """The norm of the embeddings."""
        return state.with_(x=self.norm_pre(state.x))

    def forward(self, ids: Tensor, at: At | None = None, *, eos: Tensor | None = None) -> Tokens:
        """Encode texts.

        Args:
            ids: ``[N, L]`` int64, padded at the end with ``pad_id``.
            at: site name to function.
            eos: ``[N]`` index of each row's end token, for ``pool="eos"``.
        """
        return run_blocks(self, self.embed(ids, eos), at)

    def encode_prompts(self, embeddings: Tensor, eos: Tensor, at: At | None = None) -> Tensor:
        """Word vectors ``[B, L, C]``, learned prompts among them, to features ``[B, D]``, with gradient.

        Args:
            embeddings: as ``embed_tokens`` gives them, positions not added.
            eos: ``[B]`` index of each row's end token; later slots are padding.
            at: site name to function.
        """
        mask = torch.arange(embeddings.shape[1], device=eos.device) <= eos[:, None]
        return run_blocks(self, self._place(embeddings, mask, eos), at).pooled

    def pool(self, state: State, attn: SiteFunction | None = None) -> Tokens:
        """Pooling and projection; a post-norm tower has no final norm."""
        x = state.x
        if self.pooling == "cls":
            raw = x[:, 0]
        elif self.pooling == "eos":
            if state.index is None:
                raise InputError("pooling at the end token needs its index: pass eos")
            raw = x[torch.arange(x.shape[0], device=x.device), state.index]
        else:
            weight = torch.ones_like(x[..., :1]) if state.mask is None else state.mask[..., None].to(x.dtype)
            raw = (x * weight).sum(1) / weight.sum(1)
        return Tokens(self.project(raw), x, state.mask, raw, x, state.prefix)

    def project(self, x: Tensor) -> Tensor:
        """Features ``[..., C]`` to the joint space ``[..., D]``."""
        out: Tensor = self.proj(x)
        return out


def _projection(kind: str, width: int, embed_dim: int, bias: bool) -> nn.Module:
    if kind == "none":
        return nn.Identity()
    if kind == "linear":
        return nn.Linear(width, embed_dim, bias=bias)
    if kind == "mlp":
        hidden = (width + embed_dim) // 2
        return nn.Sequential(nn.Linear(width, hidden, bias=bias), nn.GELU(), nn.Linear(hidden, embed_dim, bias=bias))
    raise InputError(f"unknown text projection {kind!r}: use 'linear', 'mlp' or 'none'")
