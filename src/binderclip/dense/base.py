"""The room's protocol: a `Segmenter` takes a picture and T texts and gives scores ``[T, H, W]`` at the picture's own size.

``score[t, y, x] = tau cos(feature[y, x], W[t])`` with unit text vectors ``W`` [T, D] and the model's own scale ``tau`` (at
most 100), spread bilinearly. Background is a vocabulary of other things, a threshold on the best probability, or both.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from binderclip.data.media import open_image
from binderclip.data.templates import class_vectors
from binderclip.dense.features import stride_of
from binderclip.dense.windows import slide
from binderclip.engine.torch_encoder import TorchEncoder
from binderclip.errors import InputError
from binderclip.model.clip import CLIP

__all__ = ["BACKGROUND", "Segmenter"]

#: What most pictures hold beside what is asked for; pixels of these belong to none of the texts.
BACKGROUND = (
    "background|a plain background",
    "sky",
    "wall",
    "floor",
    "ground",
    "grass",
    "tree|leaves",
    "water",
    "road|street",
    "building",
)
LONGEST = 2048  # pixels of the long side


class Segmenter(ABC):
    """Says where in a picture each of some texts is.

    Args:
        clip: in eval mode, shared and never changed.
        templates: sentences with ``{}`` around a name, or a named set.
        size: pixels of the short side that the picture is brought to; by default twice the tower's own.
        crop: side of the windows that are looked at one by one; by default the tower's own size.
        stride: between windows; by default half of `crop`.
        tau: factor on the cosines; by default the model's, at most 100.
        background: names of what belongs to no text; synonyms behind bars.
        threshold: pixels whose best probability is below it are background too.

    Raises:
        InputError: sizes that are no sizes.
    """

    def __init__(
        self,
        clip: CLIP,
        *,
        templates: str | Sequence[str] = "photo",
        size: int | None = None,
        crop: int | None = None,
        stride: int | None = None,
        tau: float | None = None,
        background: Sequence[str] = (),
        threshold: float = 0.0,
    ) -> None:
        assert clip.preprocess is not None
        own = clip.preprocess.size
        self.clip, self.templates, self.background, self.threshold = clip, templates, tuple(background), threshold
        self.size, self.crop = size or 2 * own, crop or own
        self.stride = stride or max(self.crop // 2, 1)
        self.tau = float(clip.scale.detach().clamp(max=100)) if tau is None else tau
        if min(self.size, self.crop, self.stride) < 1 or self.stride > self.crop:
            raise InputError(f"size {self.size}, crop {self.crop}, stride {self.stride}: give a stride of at most crop")
        self._texts: dict[tuple[str, ...], Tensor] = {}

    @abstractmethod
    def scores(self, pixels: Tensor, W: Tensor) -> Tensor:
        """Logits ``[N, T, h, w]`` of windows ``[N, 3, H, W]`` at any resolution; the part that differs between methods."""

    def segment(self, image: Any, texts: Sequence[str]) -> Tensor:
        """Logits ``[T, H, W]`` of texts (synonyms behind bars) at the picture's size.

        Args:
            image: a path, bytes of a file, a Pillow image, or RGB ``[3, H, W]`` in [0, 1].
            texts: T names.

        Raises:
            InputError: no texts, an empty one, or one twice.
            MediaError: the picture cannot be read.
        """
        return self._all(image, list(texts))[: len(texts)]

    def labels(self, image: Any, texts: Sequence[str]) -> NDArray[np.int64]:
        """Numbers of texts ``[H, W]``, -1 where there is none of them."""
        return self.decide(self._all(image, [*texts, *self._others(texts)]), len(texts))

    def decide(self, logits: Tensor, T: int) -> NDArray[np.int64]:
        """Labels ``[H, W]`` of logits ``[T + B, H, W]``: the first T are texts, the others background."""
        best, found = logits.softmax(0).max(0)
        found = found.masked_fill((found >= T) | (best < self.threshold), -1)
        out: NDArray[np.int64] = found.cpu().numpy()
        return out

    def both(self, image: Any, texts: Sequence[str]) -> tuple[Tensor, NDArray[np.int64]]:
        """Logits of the texts ``[T, H, W]`` and labels ``[H, W]``, for the price of one."""
        logits = self._all(image, [*texts, *self._others(texts)])
        return logits[: len(texts)], self.decide(logits, len(texts))

    def text_vectors(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors ``[T, D]``, made once for a list of names."""
        key = tuple(texts)
        if key not in self._texts:
            made = class_vectors(TorchEncoder(self.clip), list(texts), self.templates)
            self._texts[key] = torch.from_numpy(made).to(self.clip.device)
        return self._texts[key]

    def _others(self, texts: Sequence[str]) -> list[str]:
        """The background's names, less those that are asked for."""
        asked = {name.strip().lower() for text in texts for name in text.split("|")}
        return [name for name in self.background if not asked & set(name.split("|"))]

    @torch.no_grad()
    def _all(self, image: Any, texts: list[str]) -> Tensor:
        W = self.text_vectors(texts)
        pixels, (height, width) = self._pixels(image)
        found = slide(
            pixels,
            lambda windows: self.scores(windows, W),
            crop=self.crop,
            stride=self.stride,
            multiple=stride_of(self.clip),
        )
        return F.interpolate(found[None], size=(height, width), mode="bilinear", align_corners=False)[0]

    def _pixels(self, image: Any) -> tuple[Tensor, tuple[int, int]]:
        """Normalised ``[1, 3, h, w]`` with the short side of `size`, and the picture's own height and width."""
        if not isinstance(image, Tensor):
            image = torch.from_numpy(np.array(open_image(image).image)).permute(2, 0, 1).float() / 255
        if image.dim() != 3 or len(image) != 3:
            raise InputError(f"a picture is [3, H, W], not {list(image.shape)}")
        height, width = image.shape[-2:]
        factor = min(self.size / min(height, width), LONGEST / max(height, width))
        size = [max(math.floor(side * factor + 0.5), 1) for side in (height, width)]
        prepare = self.clip.preprocess
        assert prepare is not None
        x = F.interpolate(image[None], size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        mean, std = (torch.tensor(v)[:, None, None] for v in (prepare.mean, prepare.std))
        return ((x - mean) / std).to(self.clip.device), (height, width)
