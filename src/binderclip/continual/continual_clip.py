"""Continual-CLIP (Thengane et al. 2022, arXiv 2210.03114): the frozen CLIP through every protocol, the floor of every table.

``W_i = unit(g(texts of all classes so far))`` [C_i, D], logits ``s f(x) W_i^T``. Nothing is trained and nothing is kept;
accuracy falls only because there are more classes to take for one another. As the model never changes, one matrix of logits
over all classes gives every step by leaving out the columns of classes not seen yet (`zero_shot_stream`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binderclip.cards import Card
from binderclip.continual.base import Floats, Rows, Strategy, Task
from binderclip.errors import InputError

__all__ = ["TEMPLATES", "ContinualCLIP", "zero_shot_stream"]

CARD = Card(
    slug="continual_clip",
    name="Continual-CLIP",
    title="CLIP model is an Efficient Continual Learner",
    arxiv="2210.03114",
    year=2022,
    room="continual",
    provides="ContinualCLIP",
    kind="Strategy",
    verb="run",
    needs=("embeddings",),
    claim="without training: CIFAR-100 in 10 steps, ViT-B/16: average 75.2, last 66.7",
    must_show={
        "TIL rows are the same at all steps, BWT and forgetting exactly 0": (
            "tests/continual/test_continual_clip.py::test_til"
        ),
        "CIL by one masked matrix equals a loop over steps to the last digit": (
            "tests/continual/test_continual_clip.py::test_one_matrix_is_the_loop"
        ),
        "accuracy on the same pictures never rises when classes come": (
            "tests/continual/test_continual_clip.py::test_more_classes_only_hurt"
        ),
        "last does not depend on the order or the increment": "tests/continual/test_continual_clip.py::test_last",
        "Avg(2-2) >= Avg(5-5) >= Avg(10-10) within 0.3 on CIFAR-100": "bench:continual_clip",
        "last equals the evaluate room's zero-shot accuracy": "bench:continual_clip",
    },
)

#: The paper's study of sentences.
TEMPLATES: dict[str, str | tuple[str, ...]] = {
    "name": "{}",
    "photo": "a photo of a {}.",
    "good photo": "a good photo of a {}.",
    "bad photo": "a bad photo of a {}.",
    "ensemble": "photos",
}


class ContinualCLIP(Strategy):
    """The zero-shot classifier of the classes at hand.

    Args:
        template: sentences around a name; None takes each task's own.
    """

    def __init__(self, template: str | Sequence[str] | None = None) -> None:
        self.template = template

    def fit_task(self, task: Task) -> None:
        """Nothing is learnt."""

    def logits(self, rows: Rows, classes: Sequence[str], task: Task | None = None) -> Floats:
        """``s f W^T``, ``[N, C]``.

        Raises:
            InputError: the rows are not encoded.
        """
        if rows.vectors is None:
            raise InputError("Continual-CLIP works on vectors: encode the rows first")
        template = self.template or (task.template if task is not None else "a good photo of a {}.")
        scale = float(getattr(self.encoder, "logit_scale", 100.0))
        return scale * rows.vectors @ self.text_vectors(classes, template).T


def zero_shot_stream(
    vectors: Floats, y: Sequence[int] | NDArray[Any], texts: Floats, sizes: Sequence[int]
) -> tuple[Floats, Floats]:
    """``R [T, T]`` and ``A [T]`` in percent of a class-incremental stream, from one matrix of cosines.

    Args:
        vectors: unit rows ``[N, D]`` of the test pictures of all tasks.
        y: numbers of classes ``[N]`` in the order of the stream.
        texts: unit class vectors ``[C, D]`` in that order.
        sizes: classes a task; they add up to C.

    Raises:
        InputError: they do not.
    """
    if sum(sizes) != len(texts):
        raise InputError(f"tasks of {list(sizes)} classes do not make {len(texts)}")
    labels, ends = np.asarray(y), np.cumsum(sizes)
    scores = np.asarray(vectors) @ np.asarray(texts).T  # [N, C]; the scale changes no argmax
    group = np.searchsorted(ends, labels, side="right")
    T = len(ends)
    # Best of the first e columns, for every end e: a running maximum that moves only where it is beaten.
    right = np.zeros((T, len(labels)), bool)
    for t, end in enumerate(ends):
        right[t] = scores[:, :end].argmax(1) == labels
    R = np.full((T, T), np.nan)
    for i in range(T):
        for j in range(T):
            if (group == j).any():
                R[i, j] = 100.0 * right[max(i, j), group == j].mean()
    A = np.array([100.0 * right[i, group <= i].mean() for i in range(T)])
    return R, A
