"""Which rows are learnt from, chosen on and judged by: functions of the ids alone, so that new rows move no others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binderclip.data.hashing import uniform
from binderclip.errors import InputError

__all__ = ["Split", "few_shot", "split"]

#: Numbers of rows: to learn from, to choose hyperparameters on, to judge by.
Split = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


def split(ids: Sequence[str], y: Sequence[int], *, shots: int | None = None, held: float = 0.2, seed: int = 0) -> Split:
    """Training, validation and held-out rows of labelled data.

    A row is held out where u(id) < `held`. Of the others, `shots` of each class are learnt from and min(shots, 4) more
    are the validation set; without `shots` a further share `held` is. A class always keeps a row to learn from.

    Args:
        ids: of the rows.
        y: their classes.
        shots: rows of a class to learn from (all where it has fewer), or None for all.
        held: share of the rows, 0 to 1.
        seed: another seed, another split.

    Raises:
        InputError: shots under 1, or a share that is none.
    """
    if not 0 <= held < 1 or (shots is not None and shots < 1):
        raise InputError(f"shots {shots}, share held out {held}: give at least one shot, and a share from 0 to below 1")
    marks, u = np.asarray(y), uniform(seed, [f"held/{key}" for key in ids])
    test = u < held
    for c in np.unique(marks):
        own = np.flatnonzero(marks == c)
        if test[own].all():
            test[own[np.argmax(u[own])]] = False
    rest = np.flatnonzero(~test)
    names, numbers = [ids[int(i)] for i in rest], marks[rest]
    if shots is not None:
        learn, aside = few_shot(names, numbers, shots, seed)
    else:
        most = uniform(seed, [f"validation/{key}" for key in names])
        chosen = most < held
        for c in np.unique(numbers):
            own = np.flatnonzero(numbers == c)
            if chosen[own].all():
                chosen[own[np.argmax(most[own])]] = False
        learn, aside = np.flatnonzero(~chosen), np.flatnonzero(chosen)
    return rest[learn], rest[aside], np.flatnonzero(test)


def few_shot(ids: Sequence[str], y: Any, shots: int, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """The first `shots` rows of each class in the order of u(id), and the next min(shots, 4): rows are never repeated.

    Args:
        ids: of the rows.
        y: their classes.
        shots: of each class.
        seed: another seed, other shots; more shots hold the fewer ones.
    """
    order = np.argsort(uniform(seed, ids), kind="stable")
    learn, aside = [], []
    for c in np.unique(y):
        own = order[np.asarray(y)[order] == c]
        learn.append(own[:shots])
        aside.append(own[shots : shots + min(shots, 4)])
    empty = np.empty(0, np.intp)
    return np.sort(np.concatenate([empty, *learn])), np.sort(np.concatenate([empty, *aside]))
