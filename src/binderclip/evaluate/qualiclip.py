"""QualiCLIP: quality without human scores (Agnolucci, Galteri & Bertini 2024, arXiv 2403.11176); loss, training, score.

Pictures are degraded step by step, and the image tower is tuned until likeness to "good" texts falls and to "bad" ones rises
with the level, while two crops at one level stay alike. The texts never move. For curating, for "sharp photos only".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from binderclip.data.hashing import Draws
from binderclip.errors import InputError, NeedsPartError
from binderclip.evaluate.degrade import KINDS, LEVELS, degrade

if TYPE_CHECKING:
    from torch import Tensor

    from binderclip.model.clip import CLIP

__all__ = ["PAIRS", "QualityLoss", "QualityProbe", "QualityRanking", "drop_positions", "quality"]

Floats = NDArray[np.float64]
#: What good and bad pictures are called; the two of a pair are opposites.
PAIRS = (
    ("Good photo.", "Bad photo."),
    ("Sharp image.", "Blurry image."),
    ("Sharp edges.", "Blurry edges."),
    ("High-resolution image.", "Low-resolution image."),
    ("Noise-free image.", "Noisy image."),
    ("High-quality image.", "Low-quality image."),
    ("Good picture.", "Bad picture."),
)


@dataclass(frozen=True)
class QualityLoss:
    """What is minimised.

    Args:
        total: ``L_pos + L_neg + L_cons``, with gradient.
        parts: "pos", "neg", "cons".
    """

    total: Tensor
    parts: Mapping[str, Tensor]


def quality_loss(
    positive: Tensor, negative: Tensor, *, m_rank: float = 0.0675, m_cons: float = 0.0025, cross: bool = True
) -> QualityLoss:
    """The three margin losses of cosines ``[B, 2, L]`` (crops, levels from the least degraded) with T_p and T_n.

    Over l < m and crops i, j: ``L_pos = mean max(0, m_rank - (s_p(x_i^l) - s_p(x_j^m)))``, ``L_neg`` the same of
    ``s_n(x_j^m) - s_n(x_i^l)``; ``L_cons = mean_l max(0, |s_p(x_1^l) - s_p(x_2^l)| - m_cons)`` + the same of s_n.

    Args:
        positive: s_p.
        negative: s_n.
        m_rank: margin of ranking, on cosines (as the paper's, from memory).
        m_cons: margin of consistency.
        cross: compare across crops too, not within a crop alone (the paper does not say).
    """
    import torch

    L = positive.shape[-1]
    earlier = torch.ones(L, L, dtype=torch.bool, device=positive.device).triu(1)  # l < m
    crops = torch.ones(2, 2, dtype=torch.bool) if cross else torch.eye(2, dtype=torch.bool)
    chosen = crops.to(positive.device)[:, :, None, None] & earlier  # [2, 2, L, L]
    # drop[b, i, j, l, m] = s(x_i^l) - s(x_j^m)
    drop_p, drop_n = (s[:, :, None, :, None] - s[:, None, :, None, :] for s in (positive, negative))
    pos = (m_rank - drop_p[:, chosen]).clamp(min=0).mean()
    neg = (m_rank + drop_n[:, chosen]).clamp(min=0).mean()
    cons = sum(
        (((s[:, 0] - s[:, 1]).abs() - m_cons).clamp(min=0).mean() for s in (positive, negative)), torch.zeros(())
    )
    return QualityLoss(pos + neg + cons, {"pos": pos, "neg": neg, "cons": cons})


class QualityRanking:
    """Tuning of an image tower on pristine pictures alone; what comes out is for quality, not for classes.

    Pocket, after 300 steps at the rate that ranks best, orders 96 % of pairs of levels (52 % before) and has forgotten what
    is in pictures: keep the untuned model beside it.

    Args:
        pairs: antonym texts.
        pair_mode: "draw": one pair an item; "mean": all of them (the paper does not say).
        cross: see `quality_loss`.
        levels: L, from the least degraded; the pristine picture is not among them.
        m_rank: see `quality_loss`.
        m_cons: as there.
        kinds: of degradations, one drawn an item.
        lr: of AdamW; the paper's is tiny (1e-9, from memory) and for 140,000 pictures: choose by a held-out ranking.
        weight_decay: lambda.
        steps: of training.
        batch: items a step, 2 L pictures each.
        size: of the crops; pictures are brought to a short side of 1.5 x this first.
        seed: of all that is drawn.

    Raises:
        InputError: an unknown mode, or no kinds, pairs or levels.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[str, str]] = PAIRS,
        pair_mode: str = "draw",
        cross: bool = True,
        levels: int = LEVELS,
        m_rank: float = 0.0675,
        m_cons: float = 0.0025,
        *,
        kinds: Sequence[str] = KINDS,
        lr: float = 3e-5,
        weight_decay: float = 1e-2,
        steps: int = 300,
        batch: int = 4,
        size: int = 224,
        seed: int = 0,
    ) -> None:
        if pair_mode not in ("draw", "mean") or not pairs or not kinds or not 2 <= levels <= LEVELS:
            raise InputError(
                f"pair_mode {pair_mode!r}, {levels} levels: use draw or mean, 2 to {LEVELS}, some pairs, some kinds"
            )
        self.pairs, self.pair_mode, self.cross, self.levels = tuple(pairs), pair_mode, cross, levels
        self.m_rank, self.m_cons, self.kinds = m_rank, m_cons, tuple(kinds)
        self.lr, self.weight_decay, self.steps, self.batch = lr, weight_decay, steps, batch
        self.size, self.seed = size, seed

    def loss(self, clip: CLIP, views: Tensor, index: Tensor, texts: Tensor) -> QualityLoss:
        """Of a batch.

        Args:
            clip: whose image tower is tuned.
            views: normalised pixels ``[B, 2, L, 3, H, W]``.
            index: pair of texts of each item ``[B]``, for "draw".
            texts: unit rows ``[P, 2, D]`` of T_p and T_n, without gradient.
        """
        B, _, L = views.shape[:3]
        X = clip.encode_image(views.flatten(0, 2)).reshape(B, 2, L, -1)  # [B, 2, L, D]
        if self.pair_mode == "draw":
            t = texts[index]  # [B, 2, D]
            s = (X[:, :, :, None] * t[:, None, None]).sum(-1)  # [B, 2, L, 2]
        else:
            s = (X @ texts.flatten(0, 1).T).reshape(B, 2, L, *texts.shape[:2])  # [B, 2, L, P, 2]
            s = s.movedim(3, 1).flatten(0, 1)  # [B P, 2, L, 2]
        return quality_loss(s[..., 0], s[..., 1], m_rank=self.m_rank, m_cons=self.m_cons, cross=self.cross)

    def views(self, picture: Image.Image, key: str) -> tuple[NDArray[np.uint8], int]:
        """Two crops of a picture at each level ``[2, L, H, W, 3]`` and the number of a pair of texts, all by the key."""
        draws, n = Draws(self.seed, f"qualiclip/{key}"), self.size
        short = min(picture.size)
        scaled = [max(n + 1, round(side * 1.5 * n / short)) for side in picture.size]
        image = picture.convert("RGB").resize((scaled[0], scaled[1]), Image.Resampling.BICUBIC)
        kind = draws.choice("kind", self.kinds)
        room = [side - n for side in image.size]
        first = [draws.integer(f"at/{k}", 0, room[k]) for k in (0, 1)]
        # the second crop lies within half a crop of the first, so that they overlap
        second = [draws.integer(f"by/{k}", max(0, a - n // 2), min(room[k], a + n // 2)) for k, a in enumerate(first)]
        crops = [image.crop((x, y, x + n, y + n)) for x, y in (first, second)]
        rows = [[degrade(c, kind, level + 1, key=key, seed=self.seed) for level in range(self.levels)] for c in crops]
        pixels = np.stack([np.stack([np.asarray(one) for one in row]) for row in rows])
        return pixels, draws.integer("pair", 0, len(self.pairs) - 1)

    def fit(
        self,
        clip: CLIP,
        pictures: Sequence[Image.Image],
        on_step: Callable[[int, Mapping[str, float]], None] | None = None,
    ) -> CLIP:
        """A copy of a CLIP with its image tower tuned; texts, statistics of norms and the scale stay as they were.

        Args:
            clip: to begin with, not changed.
            pictures: pristine ones.
            on_step: told the step, its loss ("total") and what that is made of.

        Raises:
            InputError: no pictures.
            NeedsPartError: the model has no preprocess.
        """
        import torch

        if not pictures:
            raise InputError("quality is learnt from pristine pictures: give some")
        twin = drop_positions(clip)
        if twin.preprocess is None:
            raise NeedsPartError(f"{clip.name} has no preprocess: its pixels cannot be normalised")
        texts = text_pairs(twin, self.pairs)
        tower = twin.tower("image").requires_grad_(True)
        optimizer = torch.optim.AdamW(tower.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        for step in range(self.steps):
            chosen = [
                Draws(self.seed, f"step/{step}/{b}").choice("of", range(len(pictures))) for b in range(self.batch)
            ]
            made = [self.views(pictures[i], f"{step}/{b}/{i}") for b, i in enumerate(chosen)]
            pixels = np.stack([pixels for pixels, _ in made])
            flat = twin.preprocess.normalize(pixels.reshape(-1, *pixels.shape[-3:]))
            views = torch.from_numpy(flat).reshape(*pixels.shape[:3], *flat.shape[1:]).to(twin.device)
            loss = self.loss(twin, views, torch.tensor([pair for _, pair in made]), texts)
            optimizer.zero_grad()
            loss.total.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if on_step is not None:
                on_step(step, {k: float(v.detach()) for k, v in {"total": loss.total, **loss.parts}.items()})
        tower.requires_grad_(False)
        return twin


def text_pairs(clip: CLIP, pairs: Sequence[tuple[str, str]] = PAIRS) -> Tensor:
    """Unit rows ``[P, 2, D]`` of good and bad texts, without gradient."""
    import torch

    with torch.no_grad():
        return clip.encode_text([text for pair in pairs for text in pair]).reshape(len(pairs), 2, -1).detach()


def drop_positions(clip: CLIP) -> CLIP:
    """A frozen copy whose attention pool knows no positions, so that any size goes in; other towers are as they were."""
    from binderclip.model.attention_pool import AttentionPool2d
    from binderclip.model.functions import frozen_copy

    twin = frozen_copy(clip)
    for part in twin.tower("image").modules():
        if isinstance(part, AttentionPool2d):
            part.positions.data.zero_()
    return twin


def quality(images: ArrayLike, texts: ArrayLike, scale: float = 100.0) -> tuple[Floats, Floats]:
    """Quality in [0, 1] ``[N]``, and that by each pair ``[N, P]``, of which it is the mean.

    ``p_k = softmax(scale [cos(x, T_p^k), cos(x, T_n^k)])[0]``.

    Args:
        images: unit rows ``[N, D]``.
        texts: unit rows ``[P, 2, D]``.
        scale: 100, the paper's; not the model's own.
    """
    X, T = np.asarray(images, np.float64), np.asarray(texts, np.float64)
    gap = X @ (T[:, 0] - T[:, 1]).T  # [N, P]
    p = 1.0 / (1.0 + np.exp(-np.clip(scale * gap, -700, 700)))
    return p.mean(axis=1), p


class QualityProbe:
    """Quality of pictures at their own resolution, neither resized nor cropped, which would change it.

    Args:
        clip: one with a tower for any size.
        pairs: antonym texts.
        scale: on cosines.
    """

    def __init__(self, clip: CLIP, pairs: Sequence[tuple[str, str]] = PAIRS, scale: float = 100.0) -> None:
        if clip.preprocess is None:
            raise NeedsPartError(f"{clip.name} has no preprocess: its pixels cannot be normalised")
        self.clip, self.scale = drop_positions(clip), scale
        self.texts = text_pairs(self.clip, pairs).double().cpu().numpy()

    def vectors(self, images: Sequence[Image.Image]) -> Floats:
        """Unit rows ``[N, D]``; pictures of one size go in together, 32 at a time."""
        import torch

        out: list[Any] = [None] * len(images)
        by: dict[tuple[int, int], list[int]] = {}
        for i, image in enumerate(images):
            by.setdefault(image.size, []).append(i)
        assert self.clip.preprocess is not None
        for rows in by.values():
            for start in range(0, len(rows), 32):
                part = rows[start : start + 32]
                pixels = np.stack([np.asarray(images[i].convert("RGB")) for i in part])
                with torch.no_grad():
                    X = self.clip.encode_image(
                        torch.from_numpy(self.clip.preprocess.normalize(pixels)).to(self.clip.device)
                    )
                for i, x in zip(part, X.double().cpu().numpy(), strict=True):
                    out[i] = x
        return np.stack(out)

    def score(self, images: Sequence[Image.Image]) -> Floats:
        """Quality in [0, 1] ``[N]``."""
        return quality(self.vectors(images), self.texts, self.scale)[0]
