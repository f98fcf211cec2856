"""TextSpan: what each head of a ViT CLIP says, in words (Gandelsman, Efros & Steinhardt 2023, arXiv 2310.05916).

The image embedding is an exact sum over heads, source patches and MLPs (`binderclip.evaluate.decomposition`), and every
term lives in the joint space, so that texts describe it: name what a head looks at, see where a text is in a picture, take
out the heads that carry a cue which should not count.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from binderclip.cards import Card
from binderclip.errors import InputError
from binderclip.evaluate.ablation import Head, HeadAblation, ablate, role
from binderclip.evaluate.decomposition import Decomposition, collect, decompose, patch_terms, splittable
from binderclip.evaluate.head_texts import descriptions
from binderclip.evaluate.patch_maps import Segments, find_patches, heat_maps
from binderclip.model.clip import CLIP
from binderclip.model.vit import VisionTransformer

__all__ = [
    "Head",
    "HeadAblation",
    "Segments",
    "Spanned",
    "TextSpan",
    "ablate",
    "decompose",
    "heads_about",
    "heat_maps",
    "role",
    "text_rows",
    "text_span",
]

CARD = Card(
    slug="textspan",
    name="TextSpan",
    title="Interpreting CLIP's Image Representation via Text-Based Decomposition",
    arxiv="2310.05916",
    year=2023,
    room="evaluate",
    provides="TextSpan",
    kind="Probe",
    verb="explain",
    needs=("image.attention",),
    files=(
        "evaluate/ablation.py",
        "evaluate/decomposition.py",
        "evaluate/head_texts.py",
        "evaluate/patch_maps.py",
    ),
    must_show={
        "exactness: the terms add to the unit embedding (1e-5 on 32 pictures, with and without biases; 1e-4 at 24 layers)": (
            "tests/evaluate/test_textspan.py::test_the_terms_add_to_the_unit_embedding"
        ),
        "one head's uncentred data has numerical rank <= head width + 3": (
            "tests/evaluate/test_textspan.py::test_a_head_has_the_rank_of_its_width_and_three"
        ),
        "the sum over tokens of the detailed tensor equals the head tensor (1e-6)": (
            "tests/evaluate/test_textspan.py::test_tokens_add_to_heads"
        ),
        "ablating nothing: identical predictions; everything: one constant prediction": (
            "tests/evaluate/test_textspan.py::test_ablation"
        ),
        "<C, u_t> = 0 for all chosen (1e-5); explained variance non-decreasing, never above PCA's": (
            "tests/evaluate/test_textspan.py::test_text_span_against_pca"
        ),
        "planted head returns u1 then u2": "tests/evaluate/test_textspan.py::test_text_span_finds_what_was_planted",
        "CIFAR-10, small ViT, last 4 layers kept: drop reported (2.1 points), rank correlation with ablated layers > 0.8": (
            "bench:evaluate_textspan"
        ),
        "segmenter on synthetic scenes: pixel AUROC > 0.75 and above raw class attention": "bench:evaluate_textspan",
        "repair of a 90/10 set: worst group + 5 points without the background heads found by words": (
            "missed:evaluate_textspan: - 16.5 points (55.7 to 39.1 %); the 3 heads found carry the ground (52, 16, 14 % of "
            "their variance), but in a tower of 3 layers and 12 heads the same heads tell shapes apart too"
        ),
    },
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Spanned:
    """The texts that span a head's data, the one that explains most first.

    Args:
        chosen: k numbers of texts.
        explained: share of the variance that each takes away ``[k]``.
        directions: unit rows ``[k, D]``, at right angles to each other.
        mean: of the data ``[D]``.
    """

    chosen: tuple[int, ...]
    explained: Floats
    directions: Floats
    mean: Floats

    def rebuilt(self, C: ArrayLike) -> Floats:
        """Rows ``[n, D]`` as the mean and the directions alone make them."""
        centred = np.asarray(C, np.float64) - self.mean
        out: Floats = self.mean + centred @ self.directions.T @ self.directions
        return out


def text_span(C: ArrayLike, R: ArrayLike, rank: int, m: int = 20) -> Spanned:
    """Choose ``t* = argmax_t std_b <C_b, R_t>``, take its direction out of the data and of all texts, m times.

    Texts are first projected on the top `rank` right singular vectors of the data as they are; then the data are centred.

    Args:
        C: a head's terms ``[n, D]``.
        R: unit rows of texts ``[M, D]``.
        rank: width of the head: what lies beyond is rounding.
        m: texts, fewer where what is left of the best one is under 1e-4 of its start.

    Raises:
        InputError: fewer than two rows, no texts, or sides of different width.
    """
    data, texts = np.asarray(C, np.float64), np.array(R, np.float64)
    if data.ndim != 2 or len(data) < 2 or texts.ndim != 2 or not len(texts) or data.shape[1] != texts.shape[1]:
        raise InputError(f"data {data.shape} and texts {texts.shape}: give [n, D] of two pictures or more, and [M, D]")
    V = np.linalg.svd(data, full_matrices=False)[2][:rank]  # [r, D]
    texts = texts @ V.T @ V
    mean = data.mean(axis=0)
    left = data - mean
    start = np.linalg.norm(texts, axis=1)
    whole = float((left**2).sum())
    chosen, shares, directions = list[int](), list[float](), list[Floats]()
    while len(chosen) < m:
        t = int((left @ texts.T).std(axis=0).argmax())
        length = float(np.linalg.norm(texts[t]))
        if length < 1e-4 * start[t] or length == 0.0 or whole == 0.0:
            break
        u = texts[t] / length
        before = float((left**2).sum())
        left = left - np.outer(left @ u, u)
        texts = texts - np.outer(texts @ u, u)
        chosen.append(t)
        shares.append((before - float((left**2).sum())) / whole)
        directions.append(u)
    return Spanned(tuple(chosen), np.array(shares), np.array(directions).reshape(-1, data.shape[1]), mean)


class TextSpan:
    """Describe each head of the last layers by texts, and find texts in pictures.

    Args:
        clip: in eval mode, a ViT (see `binderclip.evaluate.decomposition.splittable`).
        texts: general descriptions; `binderclip.evaluate.head_texts.descriptions` by default.
        rank: singular vectors of a head's data that texts are projected on; the head's width by default.
        m: texts a head (the paper's: 20 for four layers, 10 for eight).
        last_layers: how many.

    Attributes:
        spans: (layer, head) -> `Spanned`, after `fit`.
        mean: the terms' means over the pictures that were fitted.

    Raises:
        NeedsPartError: the image tower cannot be split.
        InputError: no texts, or a number under 1.
    """

    def __init__(
        self,
        clip: CLIP,
        texts: Sequence[str] | None = None,
        rank: int | None = None,
        m: int = 20,
        last_layers: int = 4,
    ) -> None:
        tower = splittable(clip)
        self.texts = list(dict.fromkeys(descriptions() if texts is None else texts))
        if not self.texts or m < 1 or last_layers < 1 or (rank is not None and rank < 1):
            raise InputError("describing heads needs at least one text, one step, one layer and a rank of 1 or more")
        heads, depth = _sizes(tower)
        self.clip, self.m, self.rank = clip, m, rank or tower.width // heads
        self.layers = range(max(0, depth - last_layers), depth)
        self.spans: dict[Head, Spanned] = {}
        self.mean: Decomposition | None = None
        self._rows: Tensor | None = None

    @property
    def rows(self) -> Tensor:
        """R, unit rows of the texts ``[M, D]``."""
        if self._rows is None:
            self._rows = text_rows(self.clip, self.texts)
        return self._rows

    def fit(self, images: Tensor | Sequence[Any] | Decomposition) -> dict[Head, list[tuple[str, float]]]:
        """(layer, head) -> its texts, each with the share of the head's variance that it explains.

        Args:
            images: normalised pixels ``[N, 3, H, W]``, paths or Pillow images, or their terms from `collect`.

        Raises:
            InputError: fewer than two pictures.
        """
        terms = images if isinstance(images, Decomposition) else collect(self.clip, images)
        self.mean, R = terms.mean(), self.rows.double().cpu().numpy()
        self.spans = {
            (layer, head): text_span(terms.heads[:, layer, head].cpu().numpy(), R, self.rank, self.m)
            for layer in self.layers
            for head in range(terms.heads.shape[2])
        }
        return self.described()

    def described(self) -> dict[Head, list[tuple[str, float]]]:
        """What `fit` gave."""
        return {
            key: [(self.texts[t], float(share)) for t, share in zip(span.chosen, span.explained, strict=True)]
            for key, span in self.spans.items()
        }

    def said(self, terms: Decomposition, top: int = 5) -> dict[Head, list[tuple[str, float]]]:
        """(layer, head) -> the texts that its mean term points to, with ``<c, R_t - mean R>``: for a single picture."""
        mean, apart = terms.mean().heads[0], self.rows - self.rows.mean(0)
        found: dict[Head, list[tuple[str, float]]] = {}
        for layer in self.layers:
            for head, scores in enumerate(mean[layer] @ apart.T):
                best = scores.topk(min(top, len(self.texts)))
                found[layer, head] = [(self.texts[int(t)], float(v)) for v, t in zip(*best, strict=True)]
        return found

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """Unit rows ``[T, D]`` of any texts."""
        return text_rows(self.clip, texts)

    def patch_map(self, pixels: Tensor, text: str) -> NDArray[np.float32]:
        """What each patch of one picture adds along a text ``[h, w]``, 0 to 1, less the mean over the descriptions."""
        patches, grid = patch_terms(self.clip, pixels)
        raw = heat_maps(patches, grid, self.vectors([text]), self.rows, 1)[0, 0].clamp_min(0)
        plain: NDArray[np.float32] = (raw / raw.max().clamp_min(1e-12)).float().cpu().numpy()
        return plain

    def rebuilt(self, terms: Decomposition) -> Tensor:
        """Embeddings ``[B, D]`` of which each head of the last layers is only what its texts make of it.

        Heads before are their means, MLPs are untouched: the accuracy of these says how well the texts describe the model.

        Raises:
            InputError: `fit` was not called.
        """
        if self.mean is None:
            raise InputError("there are no descriptions yet: call fit first")
        parts = self.mean.heads.expand_as(terms.heads).clone()
        for (layer, head), span in self.spans.items():
            new = span.rebuilt(terms.heads[:, layer, head].cpu().numpy())
            parts[:, layer, head] = torch.from_numpy(new).to(parts)
        return parts.sum((1, 2)) + terms.mlp.sum(1)

    def segment(
        self, images: Tensor | Sequence[Any], texts: Sequence[str], against: Sequence[str] | None = None
    ) -> Segments:
        """Where each text is: patch terms along it, less the mean over texts, bilinear, clipped at 0, over its own mean.

        Args:
            images: normalised pixels, paths or Pillow images.
            texts: T classes.
            against: texts whose mean is taken off; all T, or the general descriptions for a single text.

        Raises:
            InputError: no texts or no pictures.
        """
        W = text_rows(self.clip, texts)
        other = text_rows(self.clip, against) if against else W if len(texts) > 1 else self.rows
        return find_patches(self.clip, images, W, other)


def heads_about(
    described: Mapping[Head, Sequence[tuple[str, float]]], words: Sequence[str], share: float = 0.5, first: int = 5
) -> list[Head]:
    """Heads whose first texts speak of some words: texts with such a word explain at least `share` of what those explain.

    Args:
        described: from `TextSpan.fit`.
        words: whole words, without case.
        share: of the variance that the first texts explain together.
        first: texts looked at.
    """
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, words)) + r")\b", re.IGNORECASE)
    found = []
    for head, texts in described.items():
        told = sum(value for _, value in texts[:first])
        about = sum(value for text, value in texts[:first] if pattern.search(text))
        if told > 0 and about >= share * told:
            found.append(head)
    return found


def _sizes(tower: VisionTransformer) -> tuple[int, int]:
    heads: int = tower.blocks[0].attn.heads  # type: ignore[union-attr,assignment]
    return heads, len(tower.blocks)


def text_rows(clip: CLIP, texts: Sequence[str], batch: int = 256) -> Tensor:
    """Unit rows ``[M, D]`` of texts.

    Raises:
        InputError: no texts.
    """
    if not len(texts):
        raise InputError("there are no texts to compare with: give at least one")
    with torch.no_grad():
        return torch.cat([clip.encode_text(list(texts[i : i + batch])) for i in range(0, len(texts), batch)])
