"""Which object of several an embedding stands for: retrieval and linear heads (CLIP-oscope, arXiv 2502.19842).

All on vectors that are there: rows are sentences or pictures of k objects, the bank holds each object alone.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binderclip.data.hashing import Draws, uniform
from binderclip.errors import InputError

__all__ = ["Retrieved", "keys_of", "linear_heads", "orders_of", "retrieve", "top_k"]

Floats = NDArray[Any]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


def orders_of(names: int, k: int, *, orders: str = "random", most: int = 2000, seed: int = 0) -> Ints:
    """k-combinations of names as rows ``[M, k]``; where there are more than `most`, that many drawn ones.

    Args:
        names: how many there are.
        k: of each combination.
        orders: "vocabulary" (ascending: position and word are then confounded), "random", or "all" k! of each.
        most: combinations.
        seed: of all draws.

    Raises:
        InputError: fewer names than k, or unknown orders.
    """
    if not 1 <= k <= names or orders not in ("vocabulary", "random", "all") or most < 1:
        raise InputError(f"orders {orders!r} of {k} of {names} names: use vocabulary, random or all, and enough names")
    if math.comb(names, k) <= most:
        sets = np.array(list(itertools.combinations(range(names), k)), np.int64)
    else:
        drawn = Draws(seed, "combinations").array("keys", 2 * most, names).argsort(axis=1)[:, :k]
        sets = np.unique(np.sort(drawn, axis=1), axis=0)
        sets = sets[Draws(seed, "combinations").array("which", len(sets)).argsort()[:most]]
    if orders == "vocabulary":
        return sets
    if orders == "all":
        return np.concatenate([sets[:, list(p)] for p in itertools.permutations(range(k))])
    turn = np.stack([Draws(seed, f"turn/{key}").array("order", k).argsort() for key in keys_of(sets)])
    return np.take_along_axis(sets, turn, axis=1)


def keys_of(members: Ints) -> list[str]:
    """What a row is a combination of, in no order: rows with the same key are on one side of a split."""
    return [" ".join(map(str, row)) for row in np.sort(members, axis=1)]


def top_k(X: Floats, bank: Floats, k: int, chunk: int = 1024) -> Ints:
    """The k most similar of the bank ``[n, D]`` for each row ``[M, D]``, the nearest first ``[M, k]``; ties by number."""
    parts = [
        np.argsort(-(np.asarray(X[i : i + chunk]) @ np.asarray(bank).T), axis=1, kind="stable")[:, :k]
        for i in range(0, len(X), chunk)
    ]
    out: Ints = np.concatenate(parts)
    return out


@dataclass(frozen=True)
class Retrieved:
    """What of M rows of k objects was found in a bank.

    Args:
        exact: the first k are the k objects ``[M]``.
        first: position of the single most similar of the bank, -1 where it is none of the row's ``[M]``.
        best: position of the most similar of the row's own ``[M]``.
        precision: share of the first k that are the row's; recall is the same ``[M]``.
        average_precision: of the list of k, descending ``[M]``.
        ndcg: at k, by the ideal list of k hits ``[M]``.
        k: objects of each row.
    """

    exact: Flags
    first: Ints
    best: Ints
    precision: Floats
    average_precision: Floats
    ndcg: Floats
    k: int

    def shares(self, positions: Ints, rows: Flags | None = None) -> Floats:
        """Share of each position among those of `first` or `best` ``[k]``, of some rows; foreign ones count for none."""
        some = positions if rows is None else positions[rows]
        out: Floats = np.array([(some == j).mean() if len(some) else np.nan for j in range(self.k)])
        return out


def retrieve(X: Floats, bank: Floats, members: Ints) -> Retrieved:
    """Look up rows ``[M, D]`` in a bank ``[n, D]``; `members` ``[M, k]`` says which of the bank each row holds, in order."""
    k = members.shape[1]
    top = top_k(X, bank, k)
    hit = (top[:, :, None] == members[:, None, :]).any(axis=2)  # [M, k] in descending order
    places = np.where(members == top[:, :1], np.arange(k), -1).max(axis=1)
    own = np.einsum("md,mkd->mk", X, np.asarray(bank)[members])
    at = np.arange(1, k + 1)
    gains = 1 / np.log2(at + 1)
    running = np.cumsum(hit, axis=1) / at
    return Retrieved(
        hit.all(axis=1),
        places,
        own.argmax(axis=1),
        hit.mean(axis=1),
        (running * hit).sum(axis=1) / k,
        (hit * gains).sum(axis=1) / gains.sum(),
        k,
    )


def linear_heads(
    X: Floats,
    Y: Ints,
    classes: int,
    *,
    split: tuple[float, float] = (0.75, 0.1),
    epochs: int = 10,
    batch: int = 32,
    lr: float = 1e-3,
    seed: int = 0,
) -> Flags:
    """One linear layer a position: is the object at that position named right? ``[test rows, k]``.

    Cross-entropy, Adam. Combinations, not rows, are split by hash; the epoch with the best validation accuracy is kept.

    Args:
        X: unit rows ``[M, D]``.
        Y: objects by position ``[M, k]``.
        classes: how many objects there are.
        split: shares that are learnt from and that epochs are chosen on; the rest is measured.
        epochs: passes.
        batch: rows a step.
        lr: learning rate.
        seed: of the split, the start and the order.

    Raises:
        InputError: too few combinations to split.
    """
    import torch

    u = uniform(seed, keys_of(Y))
    learn, val, test = (np.flatnonzero(m) for m in (u < split[0], (u >= split[0]) & (u < sum(split)), u >= sum(split)))
    if not len(learn) or not len(test):
        raise InputError(f"{len(X)} rows are too few to learn heads from: give more combinations")
    x, y = torch.from_numpy(np.asarray(X, np.float32)), torch.from_numpy(Y)
    (_, D), k = x.shape, Y.shape[1]
    generator = torch.Generator().manual_seed(seed)
    W, b = (
        (2 * torch.rand(*shape, generator=generator) - 1) / math.sqrt(D) for shape in ((D, k * classes), (k * classes,))
    )
    learned = [W.requires_grad_(), b.requires_grad_()]
    optimizer = torch.optim.Adam(learned, lr=lr)

    def logits(rows: Any) -> Any:
        return (x[rows] @ W + b).view(-1, k, classes)

    def right(rows: Any) -> Flags:
        with torch.no_grad():
            out: Flags = (logits(rows).argmax(2) == y[rows]).numpy()
        return out

    best, kept = -1.0, right(test)
    for _ in range(epochs):
        order = torch.from_numpy(learn)[torch.randperm(len(learn), generator=generator)]
        for rows in torch.split(order, batch):
            # a sum over positions: each head has its own weights, so that they learn as if alone
            loss = torch.nn.functional.cross_entropy(logits(rows).flatten(0, 1), y[rows].flatten()) * k
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        now = float(right(val).mean()) if len(val) else best
        if now >= best:
            best, kept = now, right(test)
    return kept
