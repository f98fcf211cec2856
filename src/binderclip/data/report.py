"""What a stream read and what it could not use; what a source holds before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from binderclip.data.pairs import Bad, Pair, Pairs
from binderclip.errors import InputError

__all__ = ["StreamReport", "Survey", "classes_of", "survey"]

_EXAMPLES = 20
_REASONS = 100
_LABELS = 100_000


@dataclass
class StreamReport:
    """Counts over the life of a stream, resumed ones included.

    Args:
        rows: that were used.
        bad: reason -> rows.
        by_source: source -> rows that could not be used.
        examples: the first few bad rows, "id: reason in full".
        notes: lines about the sources themselves.
    """

    rows: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    by_source: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def count(self, source: str, row: Pair | Bad, sample: Any) -> None:
        """Counts a row and what became of it."""
        if not isinstance(sample, Bad):
            self.rows += 1
            return
        _tally(self.bad, sample.reason)
        self.by_source[source] += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"{source}/{row.id}: {sample.reason}")

    @property
    def worst(self) -> str:
        """The most frequent reason."""
        return self.bad.most_common(1)[0][0] if self.bad else ""

    def lines(self) -> list[str]:
        """For a person: notes, then a line a reason, the most frequent first."""
        total = self.rows + self.bad.total()
        return self.notes + [_line(count, total, reason) for reason, count in self.bad.most_common()]

    def state_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        return {
            "rows": self.rows,
            "bad": dict(self.bad),
            "by_source": dict(self.by_source),
            "examples": list(self.examples),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from a state."""
        self.rows, self.examples = int(state["rows"]), list(state["examples"])
        self.bad, self.by_source = Counter(state["bad"]), Counter(state["by_source"])


@dataclass
class Survey:
    """What the rows of a source hold, media not decoded.

    Args:
        rows: that are good.
        captions: rows with at least one.
        texts: captions of all rows.
        labels: label -> rows, of the first 100,000 labels.
        media: medium -> rows.
        bad: reason -> rows.
        notes: lines about the source itself.
    """

    rows: int = 0
    captions: int = 0
    texts: int = 0
    labels: Counter[str | int] = field(default_factory=Counter)
    media: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """What a person should know before training: what is missing, and a single class."""
        lines = list(self.notes)
        if 0 < self.captions < self.rows:
            lines.append(_line(self.rows - self.captions, self.rows, "no caption"))
        labelled = self.labels.total()
        if 0 < labelled < self.rows:
            lines.append(_line(self.rows - labelled, self.rows, "no label"))
        if len(self.labels) == 1:
            lines.append(f"all labels are {next(iter(self.labels))!r}: nothing can be told apart with one class")
        if not self.captions and not self.labels:
            lines.append("no row has a caption or a label: put a .txt beside each picture, or a folder a class")
        total = self.rows + self.bad.total()
        return lines + [_line(count, total, reason) for reason, count in self.bad.most_common()]


def survey(pairs: Pairs, limit: int | None = None) -> Survey:
    """Reads through a source (its first `limit` rows) and counts."""
    found = Survey(notes=list(pairs.notes))
    for number, row in enumerate(pairs.scan()):
        if number == limit:
            break
        if isinstance(row, Bad):
            _tally(found.bad, row.reason)
            continue
        found.rows += 1
        found.captions += bool(row.captions)
        found.texts += len(row.captions)
        found.media.update(name for name in ("image", "video", "audio") if getattr(row, name) is not None)
        if row.label is not None and (row.label in found.labels or len(found.labels) < _LABELS):
            found.labels[row.label] += 1
    return found


def classes_of(pairs: Pairs) -> tuple[str, ...]:
    """Names of the classes: the source's own, or the labels of all rows in order, found by reading through it once.

    Raises:
        InputError: no row has a label, or all have the same.
    """
    if pairs.classes:
        names = pairs.classes
    else:
        names = tuple(sorted({str(label) for label in survey(pairs).labels}))
    if not names:
        raise InputError(f"no row of {pairs.name} has a label: give a folder of folders, or name the label column")
    if len(names) == 1:
        raise InputError(f"all labels of {pairs.name} are {names[0]!r}: classes need at least two")
    return names


def _tally(counts: Counter[str], reason: str) -> None:
    """Counts a reason without its particulars, so that there are few of them."""
    short = reason.split(" (")[0].split(": ")[0]
    counts[short if short in counts or len(counts) < _REASONS else "other"] += 1


def _line(count: int, total: int, reason: str) -> str:
    return f"{count:,} of {total:,} rows ({100 * count / total:.0f} %): {reason}"
