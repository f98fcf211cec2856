"""What is read off the accuracy matrix of a stream of T tasks.

``R[i][j]`` is the accuracy on task j after training on tasks 0..i, ``Z[j]`` that of the untouched CLIP, ``n[j]`` the number
of test rows. Entries that a strategy cannot know are NaN, and a number that needs one is NaN, never 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from binderclip.errors import InputError

__all__ = ["forgetting", "fscil", "step_accuracies", "summary", "tic", "zero_shot_degradation"]

Floats = NDArray[np.float64]


def _square(R: ArrayLike) -> Floats:
    out = np.asarray(R, np.float64)
    if out.ndim != 2 or out.shape[0] != out.shape[1] or not len(out):
        raise InputError(f"R has shape {out.shape}: give one row and one column a task, [T, T]")
    return out


def step_accuracies(R: ArrayLike, n: ArrayLike | None = None) -> Floats:
    """``A_i = sum_{j<=i} n_j R[i][j] / sum_{j<=i} n_j``, ``[T]``: accuracy on the pooled tests of all tasks so far."""
    r = _square(R)
    sizes = np.ones(len(r)) if n is None else np.asarray(n, np.float64)
    return np.array([r[i, : i + 1] @ sizes[: i + 1] / sizes[: i + 1].sum() for i in range(len(r))])


def forgetting(R: ArrayLike, *, clamped: bool = False) -> float:
    """``mean_{j<T-1} (max_{j<=i<=T-2} R[i][j] - R[T-1][j])``; `clamped` takes the maximum to T-1, which makes it >= 0."""
    r = _square(R)
    T = len(r)
    end = T if clamped else T - 1
    return float(np.mean([r[j:end, j].max() - r[-1, j] for j in range(T - 1)])) if T > 1 else float("nan")


def tic(R: ArrayLike) -> dict[str, float]:
    """TiC's levels, no differences: in-domain ``mean R[i][i]``, backward ``mean_{i>j}``, forward ``mean_{i<j}``."""
    r = _square(R)
    below, above = np.tril_indices(len(r), -1), np.triu_indices(len(r), 1)
    return {
        "tic_in_domain": float(np.diag(r).mean()),
        "tic_backward": float(r[below].mean()) if len(r) > 1 else float("nan"),
        "tic_forward": float(r[above].mean()) if len(r) > 1 else float("nan"),
    }


def fscil(base: ArrayLike, new: ArrayLike) -> list[dict[str, float]]:
    """Base and new accuracy of each session, and their harmonic mean ``2 b n / (b + n)``."""
    rows = zip(np.asarray(base, float), np.asarray(new, float), strict=True)
    return [{"base": b, "new": n, "harmonic": 2 * b * n / (b + n) if b + n else 0.0} for b, n in rows]


def zero_shot_degradation(Z: ArrayLike, H: ArrayLike) -> Floats:
    """``mean_h (Z[h] - H[i][h])`` over held-out sets, ``[T]``."""
    out: Floats = (np.asarray(Z, float) - np.asarray(H, float)).mean(1)
    return out


def summary(R: ArrayLike, Z: ArrayLike | None = None, n: ArrayLike | None = None) -> dict[str, float]:
    """Every number, by its field's name.

    Args:
        R: accuracies ``[T, T]``, of any unit.
        Z: of the untouched model ``[T]``, for forward transfer.
        n: test rows ``[T]``; equal ones by default.

    Raises:
        InputError: R is not square.
    """
    r = _square(R)
    T, A = len(r), step_accuracies(r, n)
    columns = [float(r[:j, j].mean()) for j in range(1, T)]
    out: dict[str, Any] = {
        "average_incremental": float(A.mean()),
        "last": float(A[-1]),
        "performance_drop": float(A[0] - A[-1]),
        "mtil_average": float(r.mean()),
        "mtil_last": float(r[-1].mean()),
        "transfer": float(np.mean(columns)) if columns else float("nan"),
        "forgetting": forgetting(r),
        "backward_transfer": float(np.mean([r[-1, j] - r[j, j] for j in range(T - 1)])) if T > 1 else float("nan"),
    }
    if Z is not None:
        z = np.asarray(Z, float)
        out["forward_transfer"] = float(np.mean([r[j - 1, j] - z[j] for j in range(1, T)])) if T > 1 else float("nan")
    return out | tic(r)
