"""What a CLIP is worth on pairs it is not trained on: zero-shot accuracy by class names, retrieval by captions, loss.

A quick look for early stopping and for the lines before and after; `binderclip evaluate` measures in full.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from binderclip.data.media import open_image
from binderclip.data.pairs import Pair, Pairs
from binderclip.data.templates import fill, templates
from binderclip.errors import InputError, MediaError
from binderclip.losses import info_nce
from binderclip.model.clip import CLIP

__all__ = ["Validation", "recall_at"]

_BATCH = 64


@dataclass
class Validation:
    """Held-out rows, decoded once and kept as 8-bit pixels.

    Args:
        images: ``[N, S, S, 3]`` uint8.
        captions: one a row, or empty.
        labels: class numbers ``[N]``, or None.
        names: of the classes.
        sentences: templates around a class name.
    """

    images: NDArray[np.uint8]
    captions: tuple[str, ...] = ()
    labels: NDArray[np.int64] | None = None
    names: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ("a photo of a {}.",)

    @classmethod
    def of(
        cls, pairs: Pairs, clip: CLIP, *, rows: int | None = 1000, which: str | Sequence[str] | None = None
    ) -> Validation:
        """The first rows of pairs that can be read, at the tower's size.

        Raises:
            InputError: no row has a caption or a label.
        """
        assert clip.preprocess is not None
        images: list[NDArray[np.uint8]] = []
        captions: list[str] = []
        labels: list[str | None] = []
        for pair in pairs:
            if rows is not None and len(images) == rows:
                break
            try:
                images.append(_pixels(pair, clip))
            except MediaError:
                continue
            captions.append(pair.caption)
            labels.append(None if pair.label is None else pairs.label_name(pair.label))
        if not images:
            raise InputError(f"no picture of {pairs.name} can be read: nothing to validate on")
        named = sorted({name for name in labels if name is not None})
        names = pairs.classes or tuple(named)
        labelled = all(name is not None for name in labels) and len(named) > 1
        told = all(captions)
        if not (told or labelled):
            raise InputError(f"rows of {pairs.name} need captions, or labels of at least two classes, to validate on")
        return cls(
            np.stack(images),
            tuple(captions) if told else (),
            np.array([names.index(str(name)) for name in labels]) if labelled else None,
            names if labelled else (),
            templates(which or pairs.templates or "photo"),
        )

    def encode_images(self, clip: CLIP) -> Tensor:
        """Unit rows ``[N, D]``."""
        return _joined(lambda part: _image(clip, part), self.images)

    @torch.no_grad()
    def measure(self, clip: CLIP) -> dict[str, float]:
        """Zero-shot ``accuracy``, ``class_loss``; recall at 1: ``image_to_text``, ``text_to_image``; InfoNCE: ``loss``."""
        training = clip.training
        clip.eval()
        found: dict[str, float] = {}
        try:
            image = self.encode_images(clip)
            if self.captions:
                text = _joined(clip.encode_text, self.captions)
                found["image_to_text"] = recall_at(image @ text.T, self.captions, 1)
                found["text_to_image"] = recall_at(text @ image.T, self.captions, 1)
                losses = [
                    float(info_nce(image[i : i + _BATCH], text[i : i + _BATCH], clip.scale, gather=False))
                    for i in range(0, len(image) - 1, _BATCH)
                ]
                found["loss"] = sum(losses) / len(losses) if losses else 0.0
            if self.labels is not None:
                found |= self._classes(clip, image)
        finally:
            clip.train(training)
        return found

    def _classes(self, clip: CLIP, image: Tensor) -> dict[str, float]:
        texts = [fill(sentence, name.replace("_", " ")) for name in self.names for sentence in self.sentences]
        vectors = _joined(clip.encode_text, texts).reshape(len(self.names), len(self.sentences), -1).mean(1)
        cosines = image @ torch.nn.functional.normalize(vectors, dim=-1).T  # [N, K]
        truth = torch.from_numpy(self.labels).to(image.device)
        loss = torch.nn.functional.cross_entropy(clip.scale * cosines, truth)
        return {"accuracy": float((cosines.argmax(-1) == truth).float().mean()), "class_loss": float(loss)}


def recall_at(scores: Tensor, captions: Sequence[str], k: int) -> float:
    """Share of queries i with item i, or one of the same caption, among the k best; ties count against.

    Args:
        scores: ``[N, N]``.
        captions: of the N rows.
        k: how many are looked at.
    """
    groups = np.unique(np.array(captions), return_inverse=True)[1]
    same = torch.from_numpy(groups[:, None] == groups[None, :]).to(scores.device)
    best = scores.masked_fill(~same, -torch.inf).max(-1, keepdim=True).values
    ahead = ((scores >= best) & ~same).sum(-1)
    return float((ahead < k).float().mean())


def _pixels(pair: Pair, clip: CLIP) -> NDArray[np.uint8]:
    assert clip.preprocess is not None
    if pair.image is None:
        raise MediaError("no image")
    return clip.preprocess(open_image(pair.image, min_side=2 * clip.preprocess.min_side).image)


def _image(clip: CLIP, pixels: NDArray[np.uint8]) -> Tensor:
    assert clip.preprocess is not None
    return clip.encode_image(torch.from_numpy(clip.preprocess.normalize(pixels)).to(clip.device))


def _joined(encode: Callable[..., Tensor], rows: Sequence[object] | NDArray[np.uint8]) -> Tensor:
    return torch.cat([encode(rows[i : i + _BATCH]) for i in range(0, len(rows), _BATCH)])
