"""The room's protocols: a `Captioner` makes texts of vectors or pictures, a `LogitsProcessor` steers a language model.

A processor drops into transformers' ``generate`` as it is. It keeps no state (beam search moves rows between steps), never
changes `scores` in place, leaves ``-inf`` alone, and takes an empty history: with a prefix of vectors ``input_ids`` starts
as ``[R, 0]``, so whatever must see the prompt is given it when it is made. In greedy decoding and sampling `scores` are raw
logits; in beam search transformers passes log-probabilities, all at most 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

__all__ = ["Captioner", "LogitsProcessor"]


@runtime_checkable
class LogitsProcessor(Protocol):
    """Scores to scores, once a step."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """``[R, V]`` from the history ``[R, t]`` and scores ``[R, V]``; R is rows times beams."""
        ...


@runtime_checkable
class Captioner(Protocol):
    """Texts for pictures."""

    def caption(self, embeddings: Any, **decode: Any) -> list[str]:
        """One text a row of vectors ``[N, D]``."""
        ...

    def fit(self, embeddings: Any, captions: Sequence[Sequence[str]], **options: Any) -> Any:
        """Learn from vectors and their captions."""
        ...
