"""Long-CLIP (Zhang et al. 2024, arXiv 2403.15378): texts of 248 tokens, by a position table that is stretched.

Of the old table ``P`` [L, C] the first K rows, the only well-trained ones, stay; the rest is interpolated f times:

    P'[j] = P[j],  j < K
    P'[K + f i + r] = (1 - r/f) P[K+i] + (r/f) P[K+i+1],  i = 0 .. L-K-2,  r = 0 .. f-1
    P'[L' - f + r] = P[L-1] + (r/f) (P[L-1] - P[L-2]),  L' = f L - (f-1) K

L = 77, K = 20 and f = 4 give L' = 248. A short fine-tuning (`binderclip.train.long_clip`) makes it worth something; captions
whose end token is among the first K are the same before and after, in a causal tower.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from binderclip.cards import Card
from binderclip.errors import InputError, NeedsPartError
from binderclip.model.clip import CLIP
from binderclip.model.tokenizer import Tokenizer

__all__ = ["long_clip", "shorten", "stretch"]

CARD = Card(
    slug="long_clip",
    name="Long-CLIP",
    title="Long-CLIP: Unlocking the Long-Text Capability of CLIP",
    arxiv="2403.15378",
    year=2024,
    room="model",
    provides="long_clip",
    kind="Surgery",
    verb="change",
    needs=("text.positions",),
    claim="about +20 % R@5 on long captions and +6 % on COCO and Flickr30k with about 1 M further pairs",
    files=("train/long_clip.py",),
    must_show={
        "a linear table stays on its line to 1e-5; kept rows and every f-th to the bit": (
            "tests/model/test_long_clip.py::test_stretch"
        ),
        "captions that end among the kept rows: the same vector to 1e-5": (
            "tests/model/test_long_clip.py::test_short_captions_stay"
        ),
        "primary component: all of v where k >= rank; rank <= k; against the eigenvectors": (
            "tests/train/test_long_clip.py::test_primary_component"
        ),
        "one AdamW step with weight decay leaves the kept rows to the bit": (
            "tests/train/test_long_clip.py::test_kept_rows_stay"
        ),
        "deciding word behind the old end: R@1 at chance before, 3 times chance after; short captions fall <= 2 points": (
            "bench:train_long_clip"
        ),
    },
)


def stretch(table: Tensor, keep: int = 20, factor: int = 4) -> Tensor:
    """``P'`` ``[f L - (f-1) K, C]`` of ``P`` ``[L, C]``.

    Raises:
        InputError: fewer than two rows behind the kept ones, or a factor under 1.
    """
    L = len(table)
    if factor < 1 or not 0 <= keep <= L - 2:
        raise InputError(f"a table of {L} rows cannot keep {keep} and stretch the rest {factor} times")
    rest = table[keep:]
    step = torch.cat([rest[1:] - rest[:-1], rest[-1:] - rest[-2:-1]])  # the last one goes on as it went
    part = torch.arange(factor, device=table.device, dtype=table.dtype) / factor
    fine = rest[:, None] + part[None, :, None] * step[:, None]  # [L - K, f, C]
    return torch.cat([table[:keep], fine.flatten(0, 1)])


def long_clip(clip: CLIP, *, keep: int = 20, factor: int = 4) -> CLIP:
    """A copy of a CLIP that reads longer texts; not yet fine-tuned.

    Args:
        clip: with a causal text tower that has a learned position table.
        keep: rows that stay.
        factor: by which the rest is stretched.

    Raises:
        NeedsPartError: a bidirectional tower, where no short caption would stay the same, or one without a table.
        InputError: a table that is too short.
    """
    text: Any = clip.tower("text")
    if not isinstance(getattr(text, "positions", None), nn.Parameter) or not getattr(text, "causal", False):
        raise NeedsPartError(f"{clip.name} cannot be stretched: its text tower is not causal with learned positions")
    shared = {id(clip.preprocess): clip.preprocess} if clip.preprocess is not None else {}
    twin = copy.deepcopy(clip, {**shared, id(clip.tokenizer): clip.tokenizer})
    tower: Any = twin.tower("text")
    with torch.no_grad():
        tower.positions = nn.Parameter(stretch(text.positions.detach(), keep, factor))
    length = tower.context_length = len(tower.positions)
    if clip.tokenizer is not None:
        twin.tokenizer = copy.copy(clip.tokenizer)
        twin.tokenizer.context_length, twin.tokenizer.truncated = length, 0
        twin.tokenizer.config = {**(clip.tokenizer.config or {}), "context_length": length}
    twin.config = _config(clip, length, twin.tokenizer)
    return twin


def _config(clip: CLIP, length: int, tokenizer: Tokenizer | None) -> dict[str, Any]:
    towers = {**clip.config.get("towers", {})}
    towers["text"] = {**towers.get("text", {}), "context_length": length}
    changed: dict[str, Any] = {**clip.config, "towers": towers, "name": f"{clip.name}-long"}
    if tokenizer is not None and clip.config.get("tokenizer"):
        changed["tokenizer"] = {**clip.config["tokenizer"], "context_length": length}
    changed.pop("probe", None)  # it is of the old table
    changed.pop("shares", None)  # the text tower is its own now
    return changed


def shorten(caption: str) -> str:
    """The summary of a long caption: what stands before the first ``". "``, line ends read as spaces."""
    return " ".join(caption.split("\n")).split(". ")[0].strip()
