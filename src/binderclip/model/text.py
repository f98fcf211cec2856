"""The text transformer of CLIP (Radford et al. 2021, arXiv 2103.00020) and its bidirectional relatives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from binderclip.errors import InputError
from binderclip.model.base import At, SiteFunction, State, Tokens
from binderclip.model.block import Block, make_norm
from binderclip.model.positions import resize_text_positions
from binderclip.model.sites import run_blocks, site_names

__all__ = ["TextTransformer"]


class TextTransformer(nn.Module):
    """Token ids ``[N, L]`` to text features: causal, pooled at the end token; both can be changed.

    A causal tower never looks behind the end token, so rows trimmed to the longest text give the same features.

    Args:
        vocab_size: rows of the token table.
        context_length: rows of the position table, the longest text.
        width: ``C``.
        layers: number of blocks.
        heads: attention heads.
        embed_dim: ``D``, the joint space.
        activation: of the MLPs (``quick_gelu`` in OpenAI's models).
        factor: the token table is ``vocab_size x factor``, followed by a linear map to ``width``; ``None``: one table.
        pool: ``eos`` (the end index), ``last`` (the last slot, padding or not), ``first`` or ``mean`` (of real tokens).
        causal: each token sees those before it only.
        eos_id: where no end index is given, the first token with this id is the end; default: the vocabulary's last.
        pad_id: tokens with this id are hidden from attention; ``None`` hides nothing.
        proj: ``linear`` to ``embed_dim``, or ``none``.
        proj_bias: whether that map has a bias.
        eps: of the norms.
        norm: ``layer`` or ``rms``.
        mlp_ratio: inner width of the MLPs over ``width``; ``mlp_hidden`` states it outright.
        mlp_hidden: inner width of the MLPs.

    Example:
        >>> tower = TextTransformer(100, 16, 32, 2, 4, 8)
        >>> tower(torch.tensor([[5, 6, 99, 0]])).pooled.shape
        torch.Size([1, 8])
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
        activation: str = "gelu",
        factor: int | None = None,
        pool: str = "eos",
        causal: bool = True,
        eos_id: int | None = None,
        pad_id: int | None = None,
        proj: str = "linear",
        proj_bias: bool = False,
        eps: float = 1e-5,
        norm: str = "layer",
        mlp_ratio: float = 4.0,
        mlp_hidden: int | None = None,
    ) -> None:
        super().__init__()
        if pool not in ("eos", "last", "first", "mean"):
            raise InputError(f"unknown text pooling {pool!r}: use 'eos', 'last', 'first' or 'mean'")
        if proj not in ("linear", "none"):
            raise InputError(f"unknown text projection {proj!r}: use 'linear' or 'none'")
        self.vocab_size, self.context_length = vocab_size, context_length
        self.width, self.embed_dim = width, embed_dim if proj == "linear" else width
        self.pooling, self.causal, self.pad_id = pool, causal, pad_id
        self.eos_id = vocab_size - 1 if eos_id is None else eos_id
        self.token_embedding = nn.Embedding(vocab_size, factor or width)
        self.token_proj = nn.Identity() if factor is None else nn.Linear(factor, width, bias=False)
        self.positions = nn.Parameter(torch.empty(context_length, width))
        self.blocks = nn.ModuleList(
            Block(
                width,
                heads,
                activation=activation,
                norm=norm,
                eps=eps,
                mlp_ratio=mlp_ratio,
                mlp_hidden=mlp_hidden,
            )
            for _ in range(layers)
        )
        self.norm = make_norm(norm, width, eps)
        self.proj = nn.Linear(width, embed_dim, bias=proj_bias) if proj == "linear" else nn.Identity()
        self._reset(factor or width)

    def _reset(self, table_width: int) -> None:
        """The start values of arXiv 2103.00020: small tables, depth-scaled output projections."""
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.01)
        if isinstance(self.token_proj, nn.Linear):
            nn.init.normal_(self.token_proj.weight, std=table_width**-0.5)
        for block in self.blocks:
            assert isinstance(block, Block)
            block.reset(len(self.blocks))
        if isinstance(self.proj, nn.Linear):
            nn.init.normal_(self.proj.weight, std=self.width**-0.5)

    @property
    def sites(self) -> tuple[str, ...]:
        """Names where a function may be put."""
        return site_names(len(self.blocks))

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Ids ``[N, L]`` to word vectors ``[N, L, C]``, before positions."""
        out: Tensor = self.token_proj(self.token_embedding(ids))
        return out

    def end_index(self, ids: Tensor) -> Tensor:
        """``[N]``: the first end token of each row; rows without one end at their last token."""
        is_end = ids == self.eos_id
        last = torch.zeros_like(is_end)
        last[:, -1] = True
        return (is_end | last).to(torch.int32).argmax(dim=-1)

    def embed(self, ids: Tensor, eos: Tensor | None = None) -> State:
        """Ids ``[N, L]`` to ``State``, positions added."""
        index = self.end_index(ids) if eos is None and self.pooling == "eos" else eos
        mask = None if self.pad_id is None else ids != self.pad_id
        return self._place(self.embed_tokens(ids), index, mask)

    def _place(self, words: Tensor, index: Tensor | None, mask: Tensor | None) -> State:
        length = words.shape[1]
        if length > self.context_length:
            raise InputError(f"a text of {length} tokens is longer than this tower's {self.context_length}: cut it")
        positions = torch.arange(length, device=words.device)
        return State(
            x=words + self.positions[:length].to(words.dtype),
            positions=positions,
            mask=mask,
            causal=self.causal,
            index=index,
        )

    def enter(self, state: State) -> State:
        """Nothing: this tower has no norm before its first block."""
        return state

    def forward(self, ids: Tensor, at: At | None = None, *, eos: Tensor | None = None) -> Tokens:
        """Encode texts.

        Args:
            ids: ``[N, L]`` int64, ``L`` at most ``context_length``.
            at: site name to function.
            eos: ``[N]`` index of each row's end token; ``None`` looks for ``eos_id``.
        """
        return run_blocks(self, self.embed(ids, eos), at)

    def encode_prompts(
        self, embeddings: Tensor, eos: Tensor, at: At | None = None, *, chunk: int | None = None
    ) -> Tensor:
        """Word vectors (learned prompts among them) to features ``[B, D]``, with gradient.

        Args:
            embeddings: ``[B, L, C]`` as ``embed_tokens`` gives them, positions not added.
            eos: ``[B]`` index of each row's end token, after any insertion.
            at: site name to function.
            chunk: rows at a time, recomputed in the backward pass, so that memory does not grow with the number of
                classes; ``None`` takes all at once. Functions in ``at`` then see one chunk at a time.
        """

        def encode(words: Tensor, index: Tensor) -> Tensor:
            return run_blocks(self, self._place(words, index, None), at).pooled

        if chunk is None or len(embeddings) <= chunk:
            return encode(embeddings, eos)
        parts = zip(torch.split(embeddings, chunk), torch.split(eos, chunk), strict=True)
        return torch.cat([checkpoint(encode, words, index, use_reentrant=False) for words, index in parts])

    def project(self, x: Tensor) -> Tensor:
        """Final-normed features ``[..., C]`` to the joint space ``[..., D]``."""
        out: Tensor = self.proj(x)
        return out

    def pool(self, state: State, attn: SiteFunction | None = None) -> Tokens:
        """Final norm, pooling, projection."""
        sequence = self.norm(state.x)  # [N, S, C]
        raw = self._pooled(sequence, state)  # [N, C]
        return Tokens(self.project(raw), sequence, state.mask, raw, state.x, state.prefix)

    def _pooled(self, sequence: Tensor, state: State) -> Tensor:
        if self.pooling == "eos":
            if state.index is None:
                raise InputError("pooling at the end token needs its index: pass eos")
            rows = torch.arange(sequence.shape[0], device=sequence.device)
            return sequence[rows, state.index]
        if self.pooling == "last":
            return sequence[:, -1]
        if self.pooling == "first":
            return sequence[:, 0]
        if state.mask is None:
            return sequence.mean(dim=1)
        weight = state.mask.to(sequence.dtype)[..., None]  # [N, S, 1]
        return (sequence * weight).sum(1) / weight.sum(1)

    def resize_context(self, length: int) -> None:
        """Change the longest text: a shorter table is cut (exact), a longer one stretched linearly."""
        self.positions = nn.Parameter(resize_text_positions(self.positions.detach(), length))
        self.context_length = length

    def extra_repr(self) -> str:
        """What printing the module shows."""
        facts: dict[str, Any] = {"pool": self.pooling, "causal": self.causal, "context_length": self.context_length}
        return ", ".join(f"{k}={v}" for k, v in facts.items())
