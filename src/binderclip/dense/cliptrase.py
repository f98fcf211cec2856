"""CLIPtrase (Shao et al. 2024, arXiv 2407.08268): self-correlation gives patches their place back, clusters vote.

In the last block ``A = softmax(s qq) + softmax(s kk) + softmax(s vv)``, residual and MLP as they are. Of the block before,
``R = mean over heads of (cos(q, q) + cos(k, k) + cos(v, v)) / 3`` is recorded; ``P = max(R[1:, 1:] - R[0, 1:], 0)`` takes
off what a patch shares with everything. DBSCAN on the rows of P finds clusters; in each, all pixels take the commonest
label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from binderclip.cards import Card
from binderclip.dense.base import Segmenter
from binderclip.dense.features import is_vit, patch_features
from binderclip.dense.last_block import Affinity, LastBlock
from binderclip.errors import InputError, NeedsExtraError, NeedsPartError
from binderclip.model.base import AttentionState
from binderclip.model.clip import CLIP

__all__ = ["CLIPtrase", "cluster_map", "correlation", "voted"]

CARD = Card(
    slug="cliptrase",
    name="CLIPtrase",
    title="Explore the Potential of CLIP for Training-Free Open Vocabulary Semantic Segmentation",
    arxiv="2407.08268",
    year=2024,
    room="dense",
    provides="CLIPtrase",
    kind="Segmenter",
    verb="segment",
    needs=("image.tokens", "image.attention"),
    claim="+22.3 % over CLIP on 9 benchmarks; ViT-B/16: VOC20 80.95, PC59 33.83, ADE150 16.35 mIoU",
    files=("dense/last_block.py",),
    must_show={
        "R symmetric, diagonal 1, in [-1, 1]; recording changes no bit": "tests/dense/test_cliptrase.py::test_correlation",
        "rows of A add to 3": "tests/dense/test_cliptrase.py::test_correlation",
        "no vote and softmax(s q k^T): the tower's own patches": (
            "tests/dense/test_cliptrase.py::test_without_vote_and_self_correlation_it_is_the_towers_own_patches"
        ),
        "planted halves: two clusters, split at pixel 112, constant halves": (
            "tests/dense/test_cliptrase.py::test_planted_halves"
        ),
        "the vote invents no class": "tests/dense/test_cliptrase.py::test_the_vote_invents_nothing",
        "all noise gives step 3": "tests/dense/test_cliptrase.py::test_all_noise_is_no_vote",
        "scenes: the vote gains at least 1 point of mIoU": (
            "missed:dense_cliptrase: -0.9 points (6.5 against 7.4 %, two seeds): 8 x 8 patches are too coarse for clusters"
        ),
        "scenes: qq+kk+vv at least 5 points over the tower's own attention": (
            "missed:dense_cliptrase: +4.1 points (7.4 against 3.2 %; +6.7 and +1.5 of two seeds)"
        ),
        "attention on the top 5 % of columns under 0.7 of the tower's own": "bench:dense_cliptrase",
    },
)

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


class CLIPtrase(Segmenter):
    """CLIPtrase.

    Args:
        clip: a ViT with a class token; see `Segmenter`.
        eps: of DBSCAN; "auto": 0.7 to 196 patches, 1.1 from 441, a line between (the line is ours).
        min_samples: of DBSCAN; "auto": 3 and 7 in the same way.
        cls_gate: multiply patch logits by the picture's own, class by class (the reference does so on VOC20 alone).
        vote: "mode" (the commonest label of a cluster), "mean" (its mean logits) or False (no clusters).
        ratio: how much finer than patches the clusters' edges are.
        affinity: of the last block.
        options: of `Segmenter`.
    """

    def __init__(
        self,
        clip: CLIP,
        *,
        eps: float | Literal["auto"] = "auto",
        min_samples: int | Literal["auto"] = "auto",
        cls_gate: bool = False,
        vote: Literal["mode", "mean", False] = "mode",
        ratio: int = 4,
        affinity: str | Affinity = "qq+kk+vv",
        templates: str | Sequence[str] = "photos",
        **options: Any,
    ) -> None:
        super().__init__(clip, templates=templates, **options)
        tower: Any = clip.tower("image")
        if not is_vit(clip) or len(tower.blocks) < 2 or not tower.prefix:
            raise NeedsPartError("CLIPtrase needs a ViT with a class token and two blocks: use pocket-vit or a ViT")
        if vote not in ("mode", "mean", False):
            raise InputError(f"no vote is called {vote!r}: use 'mode', 'mean' or False")
        self.eps, self.min_samples, self.cls_gate, self.vote, self.ratio = eps, min_samples, cls_gate, vote, ratio
        self.last = LastBlock(affinity, residual=True, mlp=True)
        self._before = f"blocks.{len(tower.blocks) - 2}.attn"

    def scores(self, pixels: Tensor, W: Tensor) -> Tensor:
        """Voted logits ``[N, T, H, W]``: at every pixel those of its own label and of the vote change places."""
        logits, P = self.patch_logits(pixels, W)
        out = F.interpolate(logits, size=pixels.shape[-2:], mode="bilinear", align_corners=False)
        if not self.vote:
            return out
        clusters = [self._clusters(one, pixels.shape[-2:], logits.shape[-2:]) for one in P]
        return torch.stack(
            [voted(one, c, self.vote) if c is not None else one for one, c in zip(out, clusters, strict=True)]
        )

    def patch_logits(self, pixels: Tensor, W: Tensor) -> tuple[Tensor, Tensor]:
        """``tau cos(F, W)`` ``[N, T, h, w]``, and ``P`` ``[N, h w, h w]`` of the block before the last."""
        kept: dict[str, Tensor] = {}

        def look(a: AttentionState) -> AttentionState:
            kept["R"] = correlation(a)
            kept["prefix"] = torch.tensor(a.state.prefix)
            return a

        features = F.normalize(patch_features(self.clip, pixels, self.last, {self._before: look}), dim=-1)
        logits = (self.tau * features @ W.T).permute(0, 3, 1, 2)
        if self.cls_gate:
            logits = logits * (self.tau * self.clip.encode_image(pixels) @ W.T)[:, :, None, None]
        n = int(kept["prefix"])
        R = kept["R"]
        return logits, (R[:, n:, n:] - R[:, :1, n:]).clamp(min=0)

    @torch.no_grad()
    def clusters(self, image: Any) -> Ints:
        """Clusters ``[H, W]`` of a picture brought to the window's size, from 0; all -1 where there are none."""
        pixels, _ = self._pixels(image)
        pixels = F.interpolate(pixels, size=(self.crop, self.crop), mode="bilinear", align_corners=False)
        _, P = self.patch_logits(pixels, torch.zeros(1, self.clip.embed_dim, device=self.clip.device))
        side: Any = self.crop // int(getattr(self.clip.tower("image"), "patch_size", 1))
        found = self._clusters(P[0], (self.crop, self.crop), (side, side))
        return np.full((self.crop, self.crop), -1) if found is None else found

    def _clusters(self, P: Tensor, size: Sequence[int], grid: Sequence[int]) -> Ints | None:
        eps, fewest = self.settings(len(P))
        return cluster_map(P.float().cpu().numpy(), grid, size, eps, fewest, self.ratio)

    def settings(self, N: int) -> tuple[float, int]:
        """Eps and min_samples of N patches."""
        part = min(max((N - 196) / (441 - 196), 0.0), 1.0)
        eps = 0.7 + 0.4 * part if self.eps == "auto" else self.eps
        return eps, round(3 + 4 * part) if self.min_samples == "auto" else self.min_samples


def correlation(a: AttentionState) -> Tensor:
    """``R`` ``[N, S, S]``: mean over heads of (cos(q, q) + cos(k, k) + cos(v, v)) / 3."""
    units = [F.normalize(t, dim=-1) for t in (a.q, a.k, a.v)]
    return torch.stack([u @ u.mT for u in units]).mean(0).mean(1)


def cluster_map(
    P: Floats, grid: Sequence[int], size: Sequence[int], eps: float, min_samples: int, ratio: int = 4
) -> Ints | None:
    """Clusters ``[H, W]`` from the rows of ``P [h w, h w]``; every pixel gets one, None where all rows are noise.

    Args:
        P: correlations of patches.
        grid: h and w.
        size: H and W.
        eps: of DBSCAN.
        min_samples: of DBSCAN.
        ratio: each cluster's mean row is brought to this many times the grid before the median filter of 2 ratio - 1.
    """
    try:
        from scipy.ndimage import median_filter
        from sklearn.cluster import DBSCAN
    except ImportError:
        raise NeedsExtraError("CLIPtrase", "learn") from None
    ids = DBSCAN(eps=eps, min_samples=min_samples).fit(P).labels_
    if (ids < 0).all():
        return None
    rows = np.stack([P[ids == g].mean(0) for g in range(ids.max() + 1)]).reshape(-1, *grid)
    fine = F.interpolate(torch.from_numpy(rows)[None], scale_factor=ratio, mode="bilinear", align_corners=False)[0]
    smooth = np.stack([median_filter(one, size=2 * ratio - 1) for one in fine.numpy()])
    wide = F.interpolate(torch.from_numpy(smooth)[None], size=tuple(size), mode="bilinear", align_corners=False)[0]
    return wide.argmax(0).numpy()


def voted(logits: Tensor, clusters: Ints, vote: str = "mode") -> Tensor:
    """Logits ``[T, H, W]`` whose argmax is the label of each pixel's cluster (a tie: the lowest number)."""
    at = torch.from_numpy(clusters).to(logits.device)
    if vote == "mean":
        means = [logits[:, at == g].mean(1) for g in range(int(at.max()) + 1)]  # NaN of an empty cluster is never read
        return torch.stack(means, 1)[:, at]
    T, own = len(logits), logits.argmax(0)
    counts = torch.stack([torch.bincount(own[at == g], minlength=T) for g in range(int(at.max()) + 1)])
    winner = counts.argmax(1)[at]  # [H, W]
    high, low = logits.gather(0, own[None]), logits.gather(0, winner[None])
    return logits.scatter(0, own[None], low).scatter(0, winner[None], high)
