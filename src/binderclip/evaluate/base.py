"""The room's protocol: a `Probe` takes the vectors of one model and labelled data and gives a `Report`.

A report is data: numbers with n and an interval, one row an item, what it takes to draw its charts, and the settings that
made it. Nothing in it needs the model or the pictures again.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from binderclip.errors import InputError
from binderclip.evaluate.data import Sets
from binderclip.evaluate.metrics.statistics import bootstrap, bootstrap_mean, wilson
from binderclip.evaluate.vectors import Vectors

__all__ = ["Example", "Metric", "Probe", "Report", "mean_of", "plain", "resampled", "share"]

FORMAT = 1


@dataclass(frozen=True)
class Metric:
    """One number.

    Args:
        name: key of the number (``acc1``).
        value: NaN where it is not defined.
        n: rows it is a statistic of.
        low: lower end of the 95 % interval, or None.
        high: upper end.
        interval: how that was found: "wilson" for shares of rows, "bootstrap" (1,000 resamples, seed 0) for all else.
        better: "higher", "lower" or "" where neither is.
        unit: "share" for what is read as a percentage, else "".
    """

    name: str
    value: float
    n: int
    low: float | None = None
    high: float | None = None
    interval: str = ""
    better: str = "higher"
    unit: str = ""


@dataclass(frozen=True)
class Example:
    """An item worth looking at: the worst ones come first.

    Args:
        id: of the item.
        title: what is wrong, in few words.
        detail: figures.
    """

    id: str
    title: str
    detail: str = ""


@dataclass(frozen=True)
class Report:
    """What a probe found.

    Args:
        probe: its name.
        model: name of the model.
        data: name of the data.
        metrics: the numbers, the most important first.
        rows: one mapping an item, all with the same keys.
        charts: mappings with a ``kind`` that :mod:`binderclip.figures` can draw.
        examples: items to look at, worst first.
        notes: lines that a reader must know.
        settings: of the probe, the model and the data; equal ones give an equal report.
        standard: ``task`` and ``metrics`` in CLIP_benchmark's keys, or empty.
    """

    probe: str
    model: str
    data: str
    metrics: tuple[Metric, ...]
    rows: tuple[Mapping[str, Any], ...] = ()
    charts: tuple[Mapping[str, Any], ...] = ()
    examples: tuple[Example, ...] = ()
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    standard: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float:
        """The value of a number by its name."""
        for metric in self.metrics:
            if metric.name == name:
                return metric.value
        raise InputError(f"{self.probe} has no number {name!r}: it has {', '.join(m.name for m in self.metrics)}")

    def to_json(self) -> dict[str, Any]:
        """Plain lists, numbers and strings; NaN becomes null."""
        out: dict[str, Any] = _jsonable({"format": FORMAT, **asdict(self)})
        return out

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Report:
        """What :meth:`to_json` gave.

        Raises:
            InputError: it is no report, or one of a newer format.
        """
        if not isinstance(value, Mapping) or value.get("format") != FORMAT:
            raise InputError(f"this is no report of format {FORMAT}: make it again with 'binderclip evaluate'")
        try:
            metrics = tuple(Metric(**m | {"value": _number(m["value"])}) for m in value["metrics"])
            examples = tuple(Example(**e) for e in value["examples"])
            return cls(
                str(value["probe"]),
                str(value["model"]),
                str(value["data"]),
                metrics,
                tuple(value["rows"]),
                tuple(value["charts"]),
                examples,
                tuple(value["notes"]),
                value["settings"],
                value["standard"],
            )
        except (KeyError, TypeError) as error:
            raise InputError(f"this report is damaged ({error}): make it again with 'binderclip evaluate'") from None

    def clip_benchmark(self) -> dict[str, Any]:
        """The result in CLIP_benchmark's layout: dataset, model, pretrained, task, metrics, language."""
        return {
            "dataset": self.data,
            "model": self.model,
            "pretrained": str(self.settings.get("model", {}).get("fingerprint", "")),
            "task": self.standard.get("task", self.probe),
            "metrics": _jsonable(dict(self.standard.get("metrics", {m.name: m.value for m in self.metrics}))),
            "language": "en",
        }

    @classmethod
    def from_clip_benchmark(cls, value: Mapping[str, Any]) -> Report:
        """A result that CLIP_benchmark wrote, to stand beside ours; n is not known (0).

        Raises:
            InputError: its keys are not there.
        """
        try:
            numbers = {str(k): _number(v) for k, v in value["metrics"].items() if not isinstance(v, str)}
            model = " ".join(str(value[key]) for key in ("model", "pretrained") if value.get(key))
            task, data = str(value["task"]), str(value["dataset"])
        except (KeyError, TypeError, ValueError, AttributeError):
            raise InputError("this is no result of CLIP_benchmark: it needs dataset, model, task and metrics") from None
        probe = {"zeroshot_classification": "zero_shot", "zeroshot_retrieval": "retrieval"}.get(task, task)
        metrics = tuple(Metric(name, number, 0, unit="share") for name, number in numbers.items())
        return cls(probe, model, data, metrics, notes=("from CLIP_benchmark",), standard=dict(value))

    def rows_csv(self) -> str:
        """The rows as CSV."""
        out = io.StringIO()
        names = list(dict.fromkeys(key for row in self.rows for key in row))
        writer = csv.DictWriter(out, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return out.getvalue()


@runtime_checkable
class Probe(Protocol):
    """A way to measure a CLIP: a frozen dataclass whose fields are its settings.

    `run` may read `vectors` and `sets` and nothing else; the same settings, model and data give the same report.
    """

    def run(self, vectors: Vectors, sets: Sets) -> Report:
        """Measure one model on one set of data.

        Raises:
            InputError: the data lack what the probe needs (labels, captions, ...).
        """
        ...


def share(name: str, hits: ArrayLike, better: str = "higher") -> Metric:
    """The share of rows ``[n]`` of bool that are true, with Wilson's interval."""
    mask = np.asarray(hits, dtype=bool)
    low, high = wilson(int(mask.sum()), len(mask))
    return Metric(name, float(mask.mean()), len(mask), low, high, "wilson", better, "share")


def mean_of(name: str, values: ArrayLike, better: str = "higher", unit: str = "") -> Metric:
    """The mean of values ``[n]`` with a bootstrap interval."""
    v = np.asarray(values, np.float64)
    low, high = bootstrap_mean(v)
    return Metric(name, float(v.mean()), len(v), low, high, "bootstrap", better, unit)


def resampled(
    name: str,
    statistic: Callable[[NDArray[np.int64]], float],
    n: int,
    better: str = "higher",
    unit: str = "",
    resamples: int = 1000,
    centred: bool = False,
) -> Metric:
    """Any statistic of rows with a bootstrap interval: it is a function of row numbers ``[m]``."""
    low, high = bootstrap(statistic, n, resamples=resamples, centred=centred)
    return Metric(name, float(statistic(np.arange(n))), n, low, high, "bootstrap", better, unit)


def plain(name: str, value: float, n: int, better: str = "", unit: str = "") -> Metric:
    """A number without an interval."""
    return Metric(name, float(value), n, better=better, unit=unit)


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(one) for key, one in value.items()}
    if isinstance(value, np.ndarray | Sequence) and not isinstance(value, str | bytes):
        return [_jsonable(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def as_text(value: Any) -> str:
    """JSON with sorted keys: equal values give equal text."""
    return json.dumps(_jsonable(value), sort_keys=True, ensure_ascii=False)
