"""What a bench found, as a report: a table, the curve over settings, and each paper's own claim beside."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from binderclip.cards import find
from binderclip.evaluate.base import Metric, Report
from binderclip.evaluate.bench.run import MEASURES, Result, trial_of

__all__ = ["mean_and_spread", "summary"]


def mean_and_spread(results: Sequence[Result], method: str, at: float, measure: str) -> tuple[float, float]:
    """Mean and standard deviation over the seeds (0 of one seed, NaN where nothing was measured)."""
    found = [r.measures[measure] for r in results if (r.method, r.at) == (method, at) and measure in r.measures]
    if not found:
        return math.nan, math.nan
    return statistics.mean(found), statistics.stdev(found) if len(found) > 1 else 0.0


def summary(room: str, model: str, data: str, results: Sequence[Result]) -> Report:
    """The report of a bench.

    Args:
        room: that was benched.
        model: name of the model.
        data: name of the data.
        results: of :func:`~binderclip.evaluate.bench.run.bench`.
    """
    trial = trial_of(room)
    measured = {name for r in results for name in r.measures}
    measures = {name: better for name, better in MEASURES[trial.TASK].items() if name in measured}
    methods = list(dict.fromkeys(r.method for r in results))
    places = sorted({r.at for r in results})
    names = {r.at: r.setting for r in results}
    seeds = len({r.seed for r in results})
    metrics, charts = [], []
    for measure, better in measures.items():
        series: dict[str, list[list[float]]] = {}
        for method in methods:
            points = [(at, *mean_and_spread(results, method, at, measure)) for at in places]
            metrics += [
                Metric(
                    f"{method} {measure}, {names[at]}",
                    mean,
                    seeds,
                    mean - spread,
                    mean + spread,
                    "seeds",
                    better,
                    "share",
                )
                for at, mean, spread in points
                if not math.isnan(mean)
            ]
            series[method] = [[at, mean] for at, mean, _ in points if not math.isnan(mean)]
        if len(places) > 1:
            lines = {name: points for name, points in series.items() if points}
            charts.append({"kind": "lines", "title": measure, "x": trial.AXIS, "y": measure, "series": lines})
    failed = {f"{r.method}, {r.setting}": r.error for r in results if r.error}
    claims = [f"{slug}: the paper says: {find(slug).claim}" for slug in methods if find(slug).claim]
    said = {f"{r.method}: {line}": None for r in results for line in r.facts.get("notes", ())}
    notes = (
        f"means of {seeds} seed{'s' * (seeds != 1)}, with one standard deviation on either side",
        *claims,
        *said,
        *(f"failed: {where}: {why}" for where, why in failed.items()),
    )
    return Report(
        f"bench_{room}", model, data, tuple(metrics), tuple(_row(r) for r in results), tuple(charts), (), notes
    )


def _row(result: Result) -> Mapping[str, Any]:
    cost = {"cpu_seconds": result.cpu, "wall_seconds": result.wall, "memory_bytes": result.memory}
    head = {"method": result.method, "setting": result.setting, "seed": result.seed}
    return {**head, **result.measures, **cost, "error": result.error}
