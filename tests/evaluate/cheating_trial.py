"""A method that looks everywhere in its process for the labels it is judged by, for test_bench."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from binderclip.data.exams import Exam

#: What the labels are known by, as a real cheat would know them by their shape: they hold these numbers in front.
MARK = (7, 3, 5, 1, 6, 2, 4, 0)


def hunt() -> Any:
    """An array or list of labels that begins with MARK, wherever in the process it lies."""
    places: list[Any] = [*gc.get_objects(), *os.environ.values()]
    for frame in sys._current_frames().values():
        at: Any = frame
        while at is not None:
            places += list(at.f_locals.values())
            at = at.f_back
    for one in list(places):
        if type(one) is dict:  # some objects answer isinstance with a look at themselves, and fail
            places += list(one.values())
    for one in places:
        if type(one) is np.ndarray and one.ndim == 1 and len(one) > 8 and one.dtype.kind == "i":
            if tuple(one[:8].tolist()) == MARK:
                return one
        elif type(one) is Exam:
            return one.key
    return None


def answer(slug: str, given: Mapping[str, Any]) -> Any:
    """`cheat` answers with what it finds, `honest` with the first class, `broken` fails, `dead` ends its process."""
    n, classes = len(given["questions"]), given["classes"]
    if slug == "broken":
        raise ValueError("no\nway")
    if slug == "dead":
        os._exit(9)
    if slug == "greedy":
        return np.ones((20, 2**21)).sum() * np.eye(classes)[np.zeros(n, int)]
    found = hunt() if slug == "cheat" else None
    scores = np.zeros((n, classes), np.float32)
    scores[np.arange(n), found if found is not None else 0] = 1
    return scores
