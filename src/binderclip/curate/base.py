"""The room's protocol: a `Curator` looks at pairs twice and says of each whether to keep it, with what weight, and why.

    read(rows) -> columns            what both passes need of the rows, made once
    scan(batch) -> partial           first pass, over any part of the rows
    merge(partial, partial)          associative, in any order
    close(partial) -> plan           small; all that the second pass knows of the other rows
    judge(batch, plan) -> Verdict    second pass; a row's verdict depends on the row and the plan alone

Partials and plans are named arrays (`Arrays`): no objects, so that they are kept in `.npz` files without pickle. Whatever is
drawn is drawn by hash64(seed, id). One class therefore runs in one process or over shards, with one result.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from binderclip.data.pairs import Pair
from binderclip.errors import InputError

__all__ = ["Arrays", "Batch", "Curator", "Verdict", "batches", "curate_rows", "kind_of", "scan_rows"]

#: Named arrays of numbers or of fixed-width text.
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Batch:
    """N rows as the two passes see them.

    Args:
        ids: of the rows, each once in the whole pool.
        columns: what `Curator.read` made of them.
        rows: the rows themselves; in the second pass only for a curator with ``again``.
    """

    ids: tuple[str, ...]
    columns: Arrays = field(default_factory=dict)
    rows: tuple[Pair, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Verdict:
    """What becomes of N rows.

    Args:
        keep: ``[N]`` bool.
        weight: ``[N]``, how much a kept row counts; 0 for the others.
        score: ``[N]``, what the choice was made by.
        reason: ``N`` texts, ``kind`` or ``kind:particulars``; rows are counted by their kind.
        group: ``N`` names of the group a row belongs to; none by default.
        caption: ``[N]`` number of the caption to keep, -1 for all of them (the default).
        added: new rows, whose ``provenance`` says what they were made of.

    Raises:
        InputError: lengths differ.
    """

    keep: NDArray[np.bool_]
    weight: NDArray[np.float64]
    score: NDArray[np.float64]
    reason: Sequence[str]
    group: Sequence[str] = ()
    caption: NDArray[np.int64] | None = None
    added: tuple[Pair, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.keep)
        object.__setattr__(self, "group", list(self.group) or [""] * n)
        if self.caption is None:
            object.__setattr__(self, "caption", np.full(n, -1, np.int64))
        sizes = {name: len(getattr(self, name)) for name in ("weight", "score", "reason", "group", "caption")}
        if set(sizes.values()) != {n}:
            raise InputError(f"a verdict on {n} rows has {sizes}: give one of each a row")

    def columns(self, ids: Sequence[str]) -> dict[str, list[Any]]:
        """The verdict as columns of a table, beside the ids of its rows."""
        table = {"id": list(ids), "keep": self.keep.tolist(), "weight": self.weight.tolist()}
        caption = None if self.caption is None else self.caption.tolist()
        return table | {
            "score": self.score.tolist(),
            "group": list(self.group),
            "reason": list(self.reason),
            "caption": caption or [],
        }


class Curator(ABC):
    """Chooses among pairs; its constructor takes every hyperparameter by name, with the paper's defaults.

    A method that needs nothing of the other rows writes `judge` alone. It is made anew in each worker process.

    Attributes:
        again: `judge` needs the rows themselves: the source is then read twice.
    """

    again: ClassVar[bool] = False

    def settings(self) -> dict[str, Any]:
        """What the result depends on, fit for JSON: a run is gone on with only by the same settings."""
        return {name: _plain(getattr(self, name)) for name in inspect.signature(type(self)).parameters}

    def read(self, rows: Sequence[Pair]) -> Arrays:
        """Columns of some rows, all that `scan` needs and, without ``again``, all that `judge` needs."""
        return {}

    def scan(self, batch: Batch) -> Arrays:
        """The partial of a batch, which may be empty: the partial of no rows changes nothing when it is merged."""
        return {}

    def merge(self, a: Arrays, b: Arrays) -> Arrays:
        """Two partials as one. Associative, and the plan does not depend on the order: here, the sums."""
        return {name: a[name] + b[name] for name in a}

    def close(self, partial: Arrays) -> Arrays:
        """The plan of a partial of all rows: here, the same.

        Raises:
            InputError: the rows do not hold what the method needs.
        """
        return partial

    @abstractmethod
    def judge(self, batch: Batch, plan: Arrays) -> Verdict:
        """A verdict on each row."""

    def about(self, plan: Arrays) -> dict[str, Any]:
        """Numbers of a plan for the user, fit for JSON."""
        return {}


def batches(rows: Iterable[Pair], curator: Curator, size: int = 1024) -> Iterable[Batch]:
    """Rows in batches, with the columns of a curator."""
    source = iter(rows)
    while some := tuple(islice(source, size)):
        yield Batch(tuple(row.id for row in some), curator.read(some), some)


def scan_rows(curator: Curator, some: Iterable[Batch]) -> Arrays:
    """The partial of batches, of none too."""
    return reduce(curator.merge, (curator.scan(batch) for batch in some), curator.scan(Batch((), curator.read(()))))


def curate_rows(curator: Curator, rows: Sequence[Pair]) -> tuple[Verdict, Arrays]:
    """Both passes over rows in memory, as one batch.

    Args:
        curator: a method.
        rows: each with an id of its own.

    Returns:
        The verdict, in the order of the rows, and the plan.

    Raises:
        InputError: an id comes twice, or the rows do not hold what the method needs.
    """
    if len({row.id for row in rows}) != len(rows):
        raise InputError("an id comes twice: draws and groups go by ids, give each row its own")
    whole = Batch(tuple(row.id for row in rows), curator.read(rows), tuple(rows))
    plan = curator.close(scan_rows(curator, [whole]))
    return curator.judge(whole, plan), plan


def kind_of(reason: str) -> str:
    """A reason without its particulars."""
    return reason.split(":")[0].split(" of ")[0]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(Path(value))
