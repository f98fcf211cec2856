"""A model of colours with a text tower that prompts can be learnt through."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from binderclip.model.clip import CLIP
from tests.evaluate.helpers import COLOURS, ColourEncoder
from tests.train.kit import tiny_clip

SENTENCES = ("{}.", "a photo of a {}.", "a {} thing.", "the {} wall is here.")


@lru_cache(maxsize=1)
def colour_clip() -> CLIP:
    """A tiny CLIP whose texts are near the directions of the colours that they name, by 120 steps of Adam."""
    clip, plain = tiny_clip(5), ColourEncoder()
    texts = [text.format(name) for text in SENTENCES for name in (*COLOURS, "pale blue", "dark red")]
    wanted = torch.from_numpy(np.asarray(plain.encode_text(texts), np.float32))
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(clip.tower("text").parameters(), 1e-2)
    for _ in range(120):
        loss = 1 - (clip.encode_text(texts) * wanted).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return clip.eval()


class PromptEncoder(ColourEncoder):
    """`ColourEncoder` whose texts are those of `colour_clip`."""

    def __init__(self, fingerprint: str = "c0", noise: float = 0.0) -> None:
        super().__init__(fingerprint, noise)
        self.clip = colour_clip()

    def encode_text(self, texts: Sequence[str]) -> Any:
        self.sentences += len(texts)
        with torch.no_grad():
            return F.normalize(self.clip.encode_text(list(texts)), dim=-1).numpy()
