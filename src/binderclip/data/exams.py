"""A question to a method, and what only the one who asks may know: how rooms hand their trials to `binderclip bench`.

A room takes part by a module ``trial`` with ``KIND`` (of the cards it compares), ``AXIS`` (name of the settings), ``TASK``
("classify" or "model": what an answer is), ``SETTINGS`` (default ones) and two functions:

    open_trial(source, *, model, seeds, settings, on_progress) -> list[Exam]
    answer(slug, given) -> ``[N, C]`` class scores ("classify"), or the folder of a saved model ("model")

``answer`` runs in a process of its own, which has `Exam.given` and never had `Exam.key`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Exam", "digest_of"]


@dataclass(frozen=True)
class Exam:
    """One question.

    Args:
        setting: in words (``4 shots``).
        at: its place on the axis of settings.
        seed: of what was drawn.
        given: plain values and numpy arrays that a method may see.
        key: what an answer is judged by.
        facts: what the result should say of it (rows, source).
    """

    setting: str
    at: float
    seed: int
    given: Mapping[str, Any]
    key: Any = field(repr=False)
    facts: Mapping[str, Any] = field(default_factory=dict)


def digest_of(value: Any) -> str:
    """16 hexadecimal digits of plain values and arrays, nested at will: equal ones, equal digits."""
    total = hashlib.sha256()
    _feed(total, value)
    return total.hexdigest()[:16]


def _feed(total: Any, value: Any) -> None:
    if isinstance(value, Mapping):
        for key in sorted(value):
            total.update(f"{key}:".encode())
            _feed(total, value[key])
    elif isinstance(value, np.ndarray):
        total.update(f"{value.dtype.str}{value.shape}".encode())
        total.update(np.ascontiguousarray(value).data)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        total.update(f"[{len(value)}".encode())
        for one in value:
            _feed(total, one)
    else:
        total.update(f"{value!r};".encode())
