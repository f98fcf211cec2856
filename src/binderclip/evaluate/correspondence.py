"""Which place of one picture is which place of another: nearest patch tokens of a middle layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from binderclip.errors import InputError, NeedsPartError

if TYPE_CHECKING:
    from PIL import Image

    from binderclip.model.clip import CLIP

__all__ = ["flip_recall", "match", "patch_tokens", "pck", "recall"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def patch_tokens(
    clip: CLIP, pictures: Sequence[Image.Image], layer: int | None = None
) -> tuple[Floats, tuple[int, int]]:
    """Unit tokens ``[N, h w, C]`` behind a block of the image tower, and its grid (h, w).

    Args:
        clip: its tower needs sites of blocks.
        pictures: as the model's preprocessing crops them.
        layer: number of the block; the middle one by default.

    Raises:
        NeedsPartError: the tower has no blocks.
    """
    import torch

    tower: Any = clip.towers["image"]
    blocks = [name for name in getattr(tower, "sites", ()) if name.startswith("blocks.") and name.endswith(".out")]
    if not blocks or clip.preprocess is None:
        raise NeedsPartError("correspondence needs an image tower with blocks: use a transformer")
    site = blocks[len(blocks) // 2 if layer is None else layer]
    kept: list[Any] = []

    def keep(state: Any) -> Any:
        x = state.x
        if x.ndim == 4:  # [N, C, H, W]
            kept.append((x.flatten(2).transpose(1, 2), tuple(x.shape[2:])))
        else:
            grid = state.grid or (round((x.shape[1] - state.prefix) ** 0.5),) * 2
            kept.append((x[:, state.prefix : state.prefix + grid[0] * grid[1]], tuple(grid)))
        return state

    training = clip.training
    clip.eval()
    try:
        with torch.no_grad():
            for start in range(0, len(pictures), 32):
                part = np.stack([np.asarray(one) for one in pictures[start : start + 32]])
                tower(torch.from_numpy(clip.preprocess.normalize(part)), at={site: keep})
    finally:
        clip.train(training)
    x = np.concatenate([tokens.double().cpu().numpy() for tokens, _ in kept])
    return x / np.linalg.norm(x, axis=-1, keepdims=True), kept[0][1]


def match(A: Floats, B: Floats, ratio: float | None = None) -> Ints:
    """The nearest token of B ``[M]`` for each of A; -1 where the ratio test fails.

    Args:
        A: unit rows ``[M, C]``.
        B: unit rows ``[K, C]``.
        ratio: Lowe's test on distances: nearest < ratio x second nearest; None for no test.
    """
    s = A @ B.T
    best: Ints = np.asarray(s.argmax(axis=1), np.int64)
    if ratio is None or B.shape[0] < 2:
        return best
    two = np.sqrt(np.maximum(2.0 - 2.0 * -np.partition(-s, 1, axis=1)[:, :2], 0.0))
    best[two[:, 0] >= ratio * two[:, 1]] = -1
    return best


def recall(found: Ints, true: Ints, grid: tuple[int, int], within: float = 0.0) -> float:
    """Share of tokens matched to within a distance, in patches, of where they are; those without a match count as lost.

    Args:
        found: of `match` ``[M]``.
        true: token of the other picture, -1 where a place is not seen there.
        grid: (h, w) of the other picture.
        within: patches.

    Raises:
        InputError: no place is seen in both.
    """
    seen = true >= 0
    if not seen.any():
        raise InputError("no place is seen in both pictures")
    a, b = (np.stack(np.divmod(v[seen], grid[1]), axis=1).astype(np.float64) for v in (found, true))
    near = np.linalg.norm(a - b, axis=1) <= within + 1e-9
    return float((near & (found[seen] >= 0)).mean())


def pck(found: ArrayLike, true: ArrayLike, size: ArrayLike, alpha: float = 0.1) -> float:
    """Percentage of correct keypoints: those within ``alpha max(box sides)`` of the truth.

    Args:
        found: points ``[N, 2]``.
        true: points ``[N, 2]``.
        size: sides of the thing's box ``[2]`` or ``[N, 2]``.
        alpha: tolerance.
    """
    away = np.linalg.norm(np.asarray(found, np.float64) - np.asarray(true, np.float64), axis=-1)
    return float((away <= alpha * np.asarray(size, np.float64).max(axis=-1)).mean())


def flip_recall(A: Floats, B: Floats, grid: tuple[int, int], ratio: float | None = None, within: float = 0.0) -> Floats:
    """Recall of each picture ``[N]`` against its mirror image.

    Args:
        A: tokens ``[N, h w, C]``.
        B: tokens of the mirror images.
        grid: (h, w).
        ratio: see `match`.
        within: see `recall`.
    """
    h, w = grid
    true = (np.arange(h)[:, None] * w + np.arange(w)[::-1][None]).ravel()
    return np.array([recall(match(a, b, ratio), true, grid, within) for a, b in zip(A, B, strict=True)])
