"""CLIPRerank: An Extremely Simple Method for Improving Ad-hoc Video Search (Chen et al. 2024, arXiv 2401.08449).

A score of a whole video misses a moment that is shorter than the video. The query is also compared with every frame, the
best frame speaks for its video, and the two scores are mixed. Nothing is trained; any first stage can be improved.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from binderclip.cards import Card
from binderclip.errors import InputError

__all__ = ["AGGREGATES", "NORMALIZERS", "Reranked", "cliprerank", "order", "per_video"]

CARD = Card(
    slug="cliprerank",
    name="CLIPRerank",
    title="CLIPRerank: An Extremely Simple Method for Improving Ad-hoc Video Search",
    arxiv="2401.08449",
    year=2024,
    room="video",
    provides="cliprerank",
    kind="function",
    needs=("embeddings",),
    must_show={
        "alpha = 1 returns the base ranking exactly, alpha = 0 the pure max-frame ranking": (
            "tests/video/test_cliprerank.py::test_the_ends_of_alpha"
        ),
        "segment max equals a loop on ragged videos; a video without frames gets -inf and is last, no NaN": (
            "tests/video/test_cliprerank.py::test_segments_equal_a_loop"
        ),
        "duplicate frames change nothing; another frame never lowers S(q, v)": (
            "tests/video/test_cliprerank.py::test_more_frames"
        ),
        "min-max fused scores do not depend on a positive factor or a constant on M; none does": (
            "tests/video/test_cliprerank.py::test_scale_of_the_base"
        ),
        "needles: mean AP at least 0.10 above the mean-pooled base; whole-video positives lose at most 0.02": (
            "bench:video_cliprerank"
        ),
        "best_frame falls inside the needle in at least 80 % of the needle hits": "bench:video_cliprerank",
        "1,000 videos x 60 frames x 1 query under 50 ms on 2 cores": "bench:video_cliprerank",
    },
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NORMALIZERS = ("auto", "none", "minmax", "zscore")
AGGREGATES = ("max", "mean", "top3")


class Reranked(NamedTuple):
    """What re-ranking gives.

    Attributes:
        scores: of every query and video [Q, V]; -inf for a video without frames (unless alpha is 1).
        best_frame: row of `frames` that is nearest to the query, of every video [Q, V]; -1 where there is none.
    """

    scores: Floats
    best_frame: Ints


def cliprerank(
    base: ArrayLike,
    text: ArrayLike,
    frames: ArrayLike,
    video_of_frame: ArrayLike,
    alpha: float = 0.4,
    normalize: str = "auto",
    aggregate: str = "max",
    top_k: int | None = None,
) -> Reranked:
    """``S_re(q, v) = alpha M(q, v) + (1 - alpha) S(q, v)``, ``S(q, v) = max_i cos(TE(q), IE(f_i))`` over v's frames.

    Args:
        base: scores ``M`` of the first stage [Q, V].
        text: embeddings of the queries [Q, D].
        frames: embeddings of all frames [F, D].
        video_of_frame: number of each frame's video, 0 to V - 1 [F].
        alpha: weight of the base score, 0 to 1; the paper's is 0.4.
        normalize: how the two are brought to one scale, per query over the finite scores of its candidates: "none",
            "minmax", "zscore", or "auto": "none" where every base score is a cosine (in [-1, 1]), else "minmax".
        aggregate: over the frames of a video: "max" (the paper's), "mean", or "top3": mean of the best three.
        top_k: re-rank only so many of the first stage's best; the others keep their order behind them.

    Raises:
        InputError: shapes that do not fit, or an option that is none.
    """
    M = np.asarray(base, dtype=np.float64)
    _check(M, text, frames, video_of_frame, alpha, normalize, aggregate, top_k)
    S, best = per_video(text, frames, video_of_frame, M.shape[1], aggregate)
    ranks = np.empty(M.shape, np.int64)  # of every video in the first stage, 0 is the best
    np.put_along_axis(ranks, np.argsort(-M, axis=1, kind="stable"), np.arange(M.shape[1])[None], axis=1)
    inside = ranks < (M.shape[1] if top_k is None else top_k)
    if normalize == "auto":
        normalize = "none" if bool(((M >= -1) & (M <= 1)).all()) else "minmax"
    if alpha == 1:
        fused = M.copy()  # not 1 M + 0 S: 0 times -inf is NaN
    elif alpha == 0:
        fused = S.copy()
    else:
        fused = alpha * _scaled(M, inside, normalize) + (1 - alpha) * _scaled(S, inside, normalize)
    if top_k is not None:
        finite = np.where(inside & np.isfinite(fused), fused, np.inf).min(axis=1, keepdims=True)
        lowest = np.where(np.isfinite(finite), finite, 0.0)  # [Q, 1]
        fused = np.where(inside, fused, lowest - 1 - (ranks - top_k) / M.shape[1])
    return Reranked(fused, best)


def per_video(
    text: ArrayLike, frames: ArrayLike, video_of_frame: ArrayLike, videos: int, aggregate: str = "max"
) -> tuple[Floats, Ints]:
    """``S`` [Q, V] and the best frame of each video [Q, V], from embeddings of any length; -inf and -1 without frames."""
    owner = np.asarray(video_of_frame, dtype=np.int64)
    Q = len(np.asarray(text))
    S, best = np.full((Q, videos), -np.inf), np.full((Q, videos), -1, np.int64)
    if not len(owner):
        return S, best
    by_video = np.argsort(owner, kind="stable")
    present, starts, counts = np.unique(owner[by_video], return_index=True, return_counts=True)
    cosines = (_unit(text) @ _unit(frames).T)[:, by_video].astype(np.float64)  # [Q, F], videos one after the other
    highest = np.maximum.reduceat(cosines, starts, axis=1)  # [Q, V']
    # The first frame that reaches its video's maximum: positions of all others are put behind the end.
    at = np.where(cosines == np.repeat(highest, counts, axis=1), np.arange(len(owner)), len(owner))
    best[:, present] = by_video[np.minimum.reduceat(at, starts, axis=1)]
    if aggregate == "mean":
        highest = np.add.reduceat(cosines, starts, axis=1) / counts
    elif aggregate == "top3":
        highest = np.stack(
            [np.sort(part, axis=1)[:, -3:].mean(axis=1) for part in np.split(cosines, starts[1:], axis=1)], axis=1
        )
    S[:, present] = highest
    return S, best


def order(scores: ArrayLike, base: ArrayLike) -> Ints:
    """Videos [Q, V], best first; ties keep the base order."""
    first = np.argsort(-np.asarray(base, np.float64), axis=1, kind="stable")
    again = np.argsort(-np.take_along_axis(np.asarray(scores, np.float64), first, axis=1), axis=1, kind="stable")
    out: Ints = np.take_along_axis(first, again, axis=1)
    return out


def _scaled(scores: Floats, inside: NDArray[np.bool_], how: str) -> Floats:
    """Scores of one scale per row; what is not finite stays, a constant row becomes 0."""
    if how == "none":
        return scores
    used = inside & np.isfinite(scores)
    with np.errstate(invalid="ignore"):
        if how == "minmax":
            low = np.where(used, scores, np.inf).min(axis=1, keepdims=True)
            spread = np.where(used, scores, -np.inf).max(axis=1, keepdims=True) - low
        else:
            count = np.maximum(used.sum(axis=1, keepdims=True), 1)
            low = np.where(used, scores, 0).sum(axis=1, keepdims=True) / count
            spread = np.sqrt(np.where(used, (scores - low) ** 2, 0).sum(axis=1, keepdims=True) / count)
        flat = ~(np.isfinite(spread) & (spread > 0))
        scaled = (scores - np.where(np.isfinite(low), low, 0)) / np.where(flat, 1.0, spread)
    return np.where(np.isfinite(scores), np.where(flat, 0.0, scaled), scores)


def _unit(rows: ArrayLike) -> NDArray[np.float32]:
    x = np.asarray(rows, dtype=np.float32)
    # Squares by einsum: no second matrix of the size of the first.
    lengths = np.sqrt(np.einsum("nd,nd->n", x, x))
    if np.abs(lengths - 1).max(initial=0.0) < 1e-6:
        return x
    out: NDArray[np.float32] = x / np.maximum(lengths, 1e-12)[:, None]
    return out


def _check(
    M: Floats,
    text: ArrayLike,
    frames: ArrayLike,
    video_of_frame: ArrayLike,
    alpha: float,
    normalize: str,
    aggregate: str,
    top_k: int | None,
) -> None:
    queries, rows, owner = np.asarray(text), np.asarray(frames), np.asarray(video_of_frame)
    if M.ndim != 2 or queries.ndim != 2 or rows.ndim != 2 or len(queries) != len(M) or len(rows) != len(owner):
        raise InputError(
            f"base {M.shape}, text {queries.shape}, frames {rows.shape}, video_of_frame {owner.shape}: give [Q, V], [Q, D],"
            " [F, D] and [F]"
        )
    if queries.shape[1] != rows.shape[1]:
        raise InputError(f"texts have {queries.shape[1]} numbers, frames {rows.shape[1]}: give embeddings of one model")
    if len(owner) and not (owner.min() >= 0 and owner.max() < M.shape[1]):
        raise InputError(f"video_of_frame names a video outside 0 to {M.shape[1] - 1}")
    if np.isnan(M).any():
        raise InputError("base has scores that are no numbers: leave those videos out")
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha={alpha}: give a weight from 0 to 1")
    if normalize not in NORMALIZERS or aggregate not in AGGREGATES:
        raise InputError(f"normalize={normalize!r}, aggregate={aggregate!r}: choose of {NORMALIZERS} and {AGGREGATES}")
    if top_k is not None and top_k < 1:
        raise InputError(f"top_k={top_k}: give 1 or more, or None for all")
