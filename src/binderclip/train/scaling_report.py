"""What a scaling study says: tables by axis, power laws, where more epochs stop helping. Without torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from binderclip.data.files import write_whole
from binderclip.errors import InputError
from binderclip.figures import draw, safe

__all__ = ["PowerLaw", "ScalingReport", "power_fit"]

AXES = ("rows", "quality", "width", "family", "objective", "epochs")
Key = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class PowerLaw:
    """``error = exp(a) n^-b``.

    Args:
        a: logarithm of the error at n = 1.
        b: exponent.
    """

    a: float
    b: float

    def __call__(self, n: float) -> float:
        """The error at n."""
        return math.exp(self.a - self.b * math.log(n))


def power_fit(n: ArrayLike, error: ArrayLike) -> PowerLaw:
    """Least squares of ``log(error) = a - b log(n)``.

    Raises:
        InputError: fewer than two sizes, or numbers that are not positive.
    """
    x, y = np.asarray(n, float), np.asarray(error, float)
    if x.shape != y.shape or len(np.unique(x)) < 2 or (x <= 0).any() or (y <= 0).any():
        raise InputError("a power law is fitted to two sizes or more, with positive errors")
    u, v = np.log(x), np.log(y)
    b = -float(((u - u.mean()) * (v - v.mean())).sum() / ((u - u.mean()) ** 2).sum())
    return PowerLaw(float(v.mean() + b * u.mean()), b)


@dataclass(frozen=True)
class ScalingReport:
    """Rows and what follows from them; seeds are averaged.

    Args:
        rows: one a cell: its axes, ``kept``, ``samples``, ``gflops``, the numbers measured, and ``value``, the metric.
        metric: what ``value`` is.
    """

    rows: tuple[Mapping[str, Any], ...]
    metric: str = "zeroshot"

    @property
    def axes(self) -> tuple[str, ...]:
        """Those that vary."""
        return tuple(axis for axis in AXES if len({row.get(axis) for row in self.rows}) > 1)

    def lines(self, axis: str) -> dict[Key, dict[Any, float]]:
        """The other axes' values -> value of this axis -> mean metric."""
        others = [name for name in self.axes if name != axis]
        found: dict[Key, dict[Any, list[float]]] = {}
        for row in self.rows:
            key = tuple((name, row[name]) for name in others)
            found.setdefault(key, {}).setdefault(row[axis], []).append(row["value"])
        return {key: {x: mean(values) for x, values in line.items()} for key, line in found.items()}

    def best(self, axis: str) -> dict[Key, Any]:
        """The other axes' values -> what this axis should be."""
        return {key: max(line, key=lambda x: line[x]) for key, line in self.lines(axis).items()}

    def fits(self, axis: str = "rows") -> dict[Key, PowerLaw]:
        """A power law of ``1 - metric`` over the axis for every line of two points or more without a perfect score."""
        fitted = {}
        for key, line in self.lines(axis).items():
            errors = {x: 1 - value for x, value in line.items()}
            if len(errors) > 1 and min(errors.values()) > 0:
                fitted[key] = power_fit(list(errors), list(errors.values()))
        return fitted

    def enough_epochs(self, tolerance: float = 0.005) -> dict[Key, float]:
        """The other axes' values -> fewest epochs from which no larger number gains more than the tolerance."""
        found = {}
        for key, line in self.lines("epochs").items():
            found[key] = next(
                e for e in sorted(line) if max(v for x, v in line.items() if x >= e) - line[e] <= tolerance
            )
        return found

    def tables(self) -> dict[str, str]:
        """Axis -> a table of the metric: a line for each of the other axes' values, the best one named at its end."""
        out = {}
        for axis in self.axes:
            lines, best = self.lines(axis), self.best(axis)
            columns = sorted({x for line in lines.values() for x in line}, key=lambda x: (isinstance(x, str), x))
            head = ["", *map(str, columns), "best"]
            body = [
                [_name(key), *(f"{line[x]:.3f}" if x in line else "-" for x in columns), str(best[key])]
                for key, line in lines.items()
            ]
            out[axis] = _aligned([head, *body])
        return out

    def charts(self) -> list[dict[str, Any]]:
        """Lines for ``binderclip.figures.draw``: the metric over the logarithm of each axis of numbers."""
        out = []
        for axis in self.axes:
            if all(isinstance(row[axis], int | float) for row in self.rows):
                log = axis in ("rows", "epochs")
                series = {
                    _name(key) or self.metric: [(math.log10(x) if log else x, y) for x, y in sorted(line.items())]
                    for key, line in self.lines(axis).items()
                }
                x = f"log10({axis})" if log else axis
                out.append({"kind": "lines", "title": f"{self.metric} by {axis}", "x": x, "series": series})
        return out

    def write(self, folder: Path) -> Path:
        """``study.json`` and ``study.html``, which is given back; the page runs no script and fetches nothing."""
        fits = {_name(key): {"a": fit.a, "b": fit.b} for key, fit in self.fits().items()} if "rows" in self.axes else {}
        facts = {"metric": self.metric, "rows": list(self.rows), "power_laws": fits}
        write_whole(folder / "study.json", json.dumps(facts, indent=1).encode())
        style = resources.files("binderclip.train").joinpath("curves.css").read_text("utf-8")
        tables = "".join(
            f"<section><h2>{safe(a)}</h2><pre>{safe_lines(t)}</pre></section>" for a, t in self.tables().items()
        )
        laws = "".join(f"<li>{safe(name)}: error falls as n^-{fit['b']:.3f}</li>" for name, fit in fits.items())
        page = (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Scaling study</title>'
            f"<style>{style}</style></head><body><main><header><h1>Scaling study</h1></header><section>"
            f"<div class='charts'>{''.join(map(draw, self.charts()))}</div><ul>{laws}</ul></section>{tables}"
            "</main></body></html>\n"
        )
        write_whole(folder / "study.html", page.encode())
        return folder / "study.html"


def safe_lines(text: str) -> str:
    """Lines of text as HTML."""
    return "\n".join(safe(line) for line in text.split("\n"))


def _name(key: Key) -> str:
    return ", ".join(f"{name} {value}" for name, value in key)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)
