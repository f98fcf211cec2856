"""The room's protocol: a `Strategy` learns the tasks of a `Stream` one after the other, and is measured on all of them.

At task i a strategy sees the training rows, the class names and the sentence of that task, and what it kept itself: no test
rows, no later names. `run` measures ``R[i][j]`` and ``Z[j]`` (see `binderclip.continual.metrics`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from binderclip.data.templates import class_vectors
from binderclip.errors import InputError

__all__ = ["KINDS", "Rows", "Strategy", "Stream", "Task"]

#: Kind of stream -> among which names a test row of task j is classified after task i.
KINDS = {
    "class": "all classes so far (of a later task: those up to it), without the task's number",
    "task": "the classes of its own task",
    "domain": "the one list of classes that all tasks share",
    "joint": "the classes of all tasks",
}
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Rows:
    """Labelled pictures.

    Args:
        ids: N names.
        y: N names of classes.
        vectors: unit rows ``[N, D]``, where they are encoded.
        images: N paths, file contents or Pillow images, where a strategy trains on pictures.
    """

    ids: tuple[str, ...]
    y: tuple[str, ...]
    vectors: Floats | None = None
    images: Sequence[Any] | None = None

    def __post_init__(self) -> None:
        sizes = {len(part) for part in (self.ids, self.y, self.vectors, self.images) if part is not None}
        if len(sizes) > 1:
            raise InputError(f"ids, labels, vectors and pictures are not as many: {sorted(sizes)}")

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, where: Sequence[int] | NDArray[Any]) -> Rows:
        """Some of the rows, by number."""
        at = [int(i) for i in where]
        return Rows(
            tuple(self.ids[i] for i in at),
            tuple(self.y[i] for i in at),
            None if self.vectors is None else self.vectors[at],
            None if self.images is None else [self.images[i] for i in at],
        )

    def of(self, classes: Sequence[str]) -> Rows:
        """The rows of some classes, in their order."""
        wanted = set(classes)
        return self.take([i for i, name in enumerate(self.y) if name in wanted])

    @classmethod
    def none(cls) -> Rows:
        """No rows."""
        return cls((), ())


@dataclass(frozen=True, eq=False)
class Task:
    """One step of a stream.

    Args:
        index: from 0.
        name: of the task.
        train: what is learnt from.
        test: what is measured on; a strategy never gets it.
        classes: names, in the stream's order.
        template: sentences with ``{}`` for a name, or a named set.
    """

    index: int
    name: str
    train: Rows
    test: Rows
    classes: tuple[str, ...]
    template: str | Sequence[str] = "a good photo of a {}."

    def without_test(self) -> Task:
        """What a strategy is shown."""
        return replace(self, test=Rows.none())


@dataclass(frozen=True, eq=False)
class Stream:
    """Tasks in order.

    Args:
        kind: see `KINDS`.
        tasks: the first has the number 0.
        seed: of the order of classes.

    Raises:
        InputError: no tasks, a kind that is none, or a test row of no class.
    """

    kind: str
    tasks: tuple[Task, ...]
    seed: int = 0
    name: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"no stream is of kind {self.kind!r}: use {', '.join(KINDS)}")
        if not self.tasks:
            raise InputError("a stream needs at least one task")
        for task in self.tasks:
            lost = next((name for name in task.test.y if name not in set(task.classes)), None)
            if lost is not None:
                raise InputError(f"a test row of {task.name} is of {lost!r}, which is none of its classes")

    @property
    def classes(self) -> tuple[str, ...]:
        """All of them, in the order they come."""
        return tuple(dict.fromkeys(name for task in self.tasks for name in task.classes))

    def candidates(self, i: int, j: int) -> tuple[str, ...]:
        """Names among which test rows of task j are classified after task i."""
        if self.kind in ("task", "domain"):
            return self.tasks[j].classes
        last = len(self.tasks) - 1 if self.kind == "joint" else max(i, j)
        return tuple(dict.fromkeys(name for task in self.tasks[: last + 1] for name in task.classes))


class Strategy(ABC):
    """A way to learn tasks one after the other.

    Attributes:
        takes: "embeddings" (unit vectors, encoded once by the runner) or "images".
        open_vocabulary: whether it can name classes it has not learnt; if not, later tasks are NaN in R.
        needs_count: whether `begin` must be told the number of tasks.
        trainable: number of weights that are trained.
    """

    takes: ClassVar[str] = "embeddings"
    open_vocabulary: ClassVar[bool] = True
    needs_count: ClassVar[bool] = False
    trainable: int = 0

    def begin(self, encoder: Any, tasks: int | None = None) -> None:
        """Before the first task.

        Args:
            encoder: the model: an ``Encoder`` ("embeddings"), or a ``CLIP`` of the strategy's own ("images").
            tasks: how many there will be, where `needs_count`.
        """
        self.encoder = encoder
        self._texts: dict[Any, Floats] = {}

    def before_task(self, task: Task) -> None:  # noqa: B027
        """Before a task's first step."""

    @abstractmethod
    def fit_task(self, task: Task) -> None:
        """Learn a task; its `test` is empty."""

    def after_task(self, task: Task) -> None:  # noqa: B027
        """Behind a task's last step."""

    @abstractmethod
    def logits(self, rows: Rows, classes: Sequence[str], task: Task | None = None) -> Floats:
        """Scores ``[N, C]`` of rows.

        Args:
            rows: to classify; their labels are not there.
            classes: C names.
            task: of the test rows, for its sentence (and its number, where the stream tells it).
        """

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """What it has learnt and kept, to go on from in the middle of a stream."""
        return {}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:  # noqa: B027
        """Go on from there; `begin` was called."""

    def bytes(self) -> int:
        """Memory that it keeps beside the model: exemplars with labels, copies, statistics."""
        return sum(value.nbytes for value in self.state_dict().values())

    def text_vectors(self, classes: Sequence[str], template: str | Sequence[str]) -> Floats:
        """Unit vectors ``[C, D]``, made once while the text tower does not change; underscores are read as spaces."""
        key = (tuple(classes), template if isinstance(template, str) else tuple(template))
        if key not in self._texts:
            self._texts[key] = class_vectors(self.encoder, [name.replace("_", " ") for name in classes], template)
        return self._texts[key]


Listener = Callable[[Mapping[str, Any]], None]
