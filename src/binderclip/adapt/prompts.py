"""Learnt prompts: word vectors in a frozen sentence, and tokens that are put before a tower's blocks.

Nothing of a model is changed: text prompts go through `TextTransformer.encode_prompts`, deep ones through sites, and
gradients are asked for by name, so that the weights of a CLIP neither move nor collect any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from binderclip.data.hashing import hash64
from binderclip.engine import Encoder
from binderclip.errors import InputError, NeedsPartError
from binderclip.model.base import At, State
from binderclip.model.clip import CLIP

__all__ = ["POSITIONS", "PromptLearner", "at_rest", "clip_of", "deep_prompts", "normal"]

#: Where the context may stand: before the name, on both sides of it, after it.
POSITIONS = ("end", "middle", "front")
_STD = 0.02


def clip_of(model: Any) -> CLIP:
    """The torch `CLIP` of a model: itself, the one within, or the weights that its exported graphs were made from.

    Raises:
        NeedsPartError: there is none behind it.
        NeedsExtraError: torch is not installed.
    """
    for found in (model, getattr(model, "clip", None), getattr(getattr(model, "towers", None), "clip", None)):
        if isinstance(found, CLIP):
            return found
    if isinstance(model, Encoder):
        return _loaded(model.name, model.fingerprint)
    raise NeedsPartError(
        f"{type(model).__name__} gives vectors only: prompts need a CLIP's towers; give one, or an Encoder"
    )


@lru_cache(maxsize=1)
def _loaded(name: str, fingerprint: str) -> CLIP:
    from binderclip.hub import load

    return load(name).eval()


@contextmanager
def at_rest(clip: CLIP) -> Iterator[CLIP]:
    """The model in evaluation mode (no dropout); its mode is as it was afterwards."""
    training = clip.training
    clip.eval()
    try:
        yield clip
    finally:
        clip.train(training)


def normal(*shape: int, seed: int, key: str = "") -> Tensor:
    """N(0, 0.02^2) of a shape, a function of (seed, key)."""
    return _STD * torch.randn(*shape, generator=torch.Generator().manual_seed(hash64(seed, key) >> 1))


class PromptLearner(nn.Module):
    """``[SOS] ctx_1 ... ctx_M name . [EOS]``: ctx [M, E] is learnt, everything else are the model's own word vectors.

    With other positions the sentence is ``ctx_1 ... ctx_{M/2} name ... ctx_M .`` (middle) or ``name ctx_1 ... ctx_M .``
    (front). The text feature is read at the end token of the sentence; a name that is too long is cut in front of it.

    Args:
        clip: a text tower with `encode_prompts`, and a tokenizer.
        classes: names; underscores are read as spaces.
        n_ctx: M; None takes as many as `init` has tokens.
        init: words whose vectors the context starts from. With more of them than M the others stay in the sentence, frozen;
            with fewer, or none, the start is N(0, 0.02^2).
        position: one of `POSITIONS`; words to start from need "end".
        class_specific: a context for each class, [C, M, E].
        reparam: what stands between the parameter and the context, [..., M, E] to [..., M, E]; trained with it.
        seed: of the random start; a class's own is a function of its name.

    Attributes:
        ctx: the parameter.
        eos: ``[C]`` index of each sentence's end token.
        first: slot of the context's first token, where the position is "end".

    Raises:
        NeedsPartError: the text tower takes no word vectors, or there is no tokenizer.
        InputError: a position that is none, or no room for the names.
    """

    words: Tensor
    slots: Tensor
    eos: Tensor

    def __init__(
        self,
        clip: CLIP,
        classes: Sequence[str],
        *,
        n_ctx: int | None = 16,
        init: str = "",
        position: str = "end",
        class_specific: bool = False,
        reparam: nn.Module | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        tower: Any = clip.tower("text")
        if not hasattr(tower, "encode_prompts") or getattr(tower, "pad_id", None) is not None or clip.tokenizer is None:
            raise NeedsPartError(f"{clip.name} cannot learn prompts: its text tower takes token ids only")
        started = clip.tokenizer.encode(init) if init else []
        M = len(started) if n_ctx is None else n_ctx
        if position not in POSITIONS or (position != "end" and init):
            raise InputError(f"position is {position!r}: use {', '.join(POSITIONS)}, and ctx_init with end only")
        if M < 0 or (M == 0 and n_ctx is None):
            raise InputError(f"n_ctx is {n_ctx}: give a number of context tokens, or words in ctx_init")
        self._options: dict[str, Any] = {
            "n_ctx": M,
            "init": init,
            "position": position,
            "class_specific": class_specific,
        }
        self._clip, self.classes, self.n_ctx, self.reparam = [clip], tuple(classes), M, reparam
        self.first = int(clip.tokenizer.start is not None)
        rows = [self._row(name.replace("_", " "), started if len(started) >= M else []) for name in classes]
        self._fill(rows)
        with torch.no_grad():
            E = self.words.shape[2]
            if class_specific and len(started) < M:
                start = torch.stack([normal(M, E, seed=seed, key=f"context/{name}") for name in classes])
            elif len(started) < M:
                start = normal(M, E, seed=seed, key="context")
            else:
                start = tower.embed_tokens(torch.tensor([started[:M]], device=clip.device).long())[0].float().cpu()
                start = start.expand(len(classes), -1, -1) if class_specific else start
        self.ctx = nn.Parameter(start.clone().to(clip.device))

    def _row(self, name: str, started: list[int]) -> list[int]:
        """Ids of a sentence without its ends; -1 - m where context token m goes."""
        tokenizer, M, place = self._clip[0].tokenizer, self.n_ctx, self._options["position"]
        assert tokenizer is not None
        context = [-1 - m for m in range(M)]
        room = self._clip[0].tower("text").context_length - self.first - (tokenizer.end is not None)  # type: ignore[operator]
        if place == "end":
            text = f"{self._options['init']} {name}." if started else f"{name}."
            ids = context + tokenizer.encode(text)[M if started else 0 :]
            if len(ids) > room:
                ids = ids[:room]
            lost = room <= max(M, len(started))
        else:
            body, dot = tokenizer.encode(name), tokenizer.encode(".")
            body = body[: max(room - M - len(dot), 0)]
            half = 0 if place == "front" else M // 2
            ids, lost = context[:half] + body + context[half:] + dot, not body
        if lost:
            raise InputError(f"{M} context tokens leave no room for {name!r} in {room}: give a smaller n_ctx")
        return ids

    def _fill(self, rows: list[list[int]]) -> None:
        """Word vectors [C, L, E], and for each slot the number of its context token or -1, [C, L]."""
        clip = self._clip[0]
        tokenizer, tower = clip.tokenizer, clip.tower("text")
        assert tokenizer is not None
        ends = [] if tokenizer.end is None else [tokenizer.end]
        starts = [] if tokenizer.start is None else [tokenizer.start]
        full = [[*starts, *row, *ends] for row in rows]
        length = tower.context_length if tokenizer.pad_to == "max" else max(map(len, full))
        ids = torch.full((len(full), int(length)), tokenizer.pad)  # type: ignore[arg-type]
        for at, row in zip(ids, full, strict=True):
            at[: len(row)] = torch.tensor(row)
        with torch.no_grad():
            words = tower.embed_tokens(ids.clamp(min=0).to(clip.device)).float()  # type: ignore[operator]
        self.register_buffer("words", words, persistent=False)
        self.register_buffer("slots", (-1 - ids).clamp(min=-1).to(clip.device), persistent=False)
        self.register_buffer("eos", torch.tensor([len(row) - 1 for row in full]).to(clip.device), persistent=False)

    def context(self) -> Tensor:
        """What stands in the sentences: the parameter, through `reparam` where there is one."""
        out: Tensor = self.ctx if self.reparam is None else self.reparam(self.ctx)
        return out

    def forward(self, rows: Tensor | None = None) -> Tensor:
        """Word vectors of the sentences ``[C, L, E]``.

        Args:
            rows: a context for each of B pictures, ``[B, M, E]``, in place of the learnt one: then ``[B, C, L, E]``.
        """
        if not self.n_ctx:
            return self.words if rows is None else self.words.expand(len(rows), -1, -1, -1)
        ctx = self.context() if rows is None else rows[:, None]  # [M, E], [C, M, E] or [B, 1, M, E]
        shape = (*ctx.shape[:-3], *self.words.shape[:2], 1)
        index = self.slots.clamp(min=0)[..., None].expand(shape)  # [..., C, L, 1]
        wide = ctx.expand(*shape[:-2], *ctx.shape[-2:])  # [..., C, M, E]
        return torch.where(self.slots[..., None] >= 0, torch.take_along_dim(wide, index, dim=-2), self.words)

    def features(self, at: At | None = None, *, rows: Tensor | None = None, chunk: int | None = None) -> Tensor:
        """Unit text features ``[C, D]`` with gradient, or ``[B, C, D]``.

        Args:
            at: site functions of the text tower.
            rows: as for `forward`.
            chunk: sentences at a time, recomputed in the backward pass; None takes all at once.
        """
        clip = self._clip[0]
        words = self(rows)
        flat = words.flatten(0, -3).to(clip.logit_scale.dtype)  # [B C, L, E]
        encode: Callable[..., Tensor] = clip.tower("text").encode_prompts  # type: ignore[assignment]
        found = encode(flat, self.eos.repeat(len(flat) // len(self.eos)), at, chunk=chunk)
        return F.normalize(found.float(), dim=-1).reshape(*words.shape[:-2], -1)

    def for_classes(self, names: Sequence[str]) -> Self:
        """The same context, the parameter itself, around other names.

        Raises:
            InputError: the context is class-specific.
        """
        if self._options["class_specific"]:
            raise InputError("each class has a context of its own: learn other names anew")
        made = type(self)(self._clip[0], names, reparam=self.reparam, **self._options)
        made.ctx = self.ctx
        return made


def deep_prompts(levels: Sequence[Tensor], slot: int | None = None) -> At:
    """Tokens before the first blocks of a tower, as site functions: level j replaces what block j - 1 made of level j - 1.

    Args:
        levels: J tensors ``[M, C]``, or ``[N, M, C]`` for each row; no gradient is cut.
        slot: first slot that they take in a sequence which holds level 0 already (a sentence); None appends level 0 to the
            sequence, after positions were added and before the first norm (pictures).
    """
    if not levels or not levels[0].shape[-2]:
        return {}
    M = levels[0].shape[-2]

    def exchange(state: State, new: Tensor) -> State:
        start = state.x.shape[1] - M if slot is None else slot
        wide = new.expand(state.x.shape[0], -1, -1).to(state.x.dtype)
        return state.with_(x=torch.cat([state.x[:, :start], wide, state.x[:, start + M :]], 1))

    at: dict[str, Callable[[State], State]] = {}
    if slot is None:
        at["embed.out"] = lambda state: state.insert(levels[0])
    for j, level in enumerate(levels[1:], 1):
        at[f"blocks.{j}.in"] = lambda state, level=level: exchange(state, level)  # type: ignore[misc]
    return at
