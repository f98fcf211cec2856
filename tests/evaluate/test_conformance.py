"""Every probe keeps the room's contract; three broken ones each fail for their reason."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields, is_dataclass, replace

import numpy as np
import pytest

from binderclip.evaluate import probes
from binderclip.evaluate.base import Metric, Probe, Report, share
from binderclip.evaluate.data import Dataset, Sets
from binderclip.evaluate.metrics.calibration import ece
from binderclip.evaluate.vectors import Vectors
from tests.evaluate.helpers import ColourEncoder, colours

SMALL = {
    "corruptions": {"kinds": ("fog", "gaussian_noise"), "severities": (2,)},
    "robustness-suite": {"kinds": ("fog",), "severities": (2,), "factors": ("darker",)},
    "multi-object": {"scenes": 24, "sentences": 60},
}


def sets_for_all() -> Sets:
    data = colours(6, captions=2)
    items = tuple(
        replace(i, negatives=("a grey thing",), kind=f"k{n % 2}", rating=n % 4) for n, i in enumerate(data.items)
    )
    return Sets(replace(data, items=items), outliers=replace(colours(2), items=_renamed(colours(2))))


def _renamed(data: Dataset) -> tuple:
    return tuple(replace(item, id=f"o/{item.id}") for item in data.items)


def faults(probe: Probe) -> list[str]:
    """What a probe does that it may not."""
    sets, encoder = sets_for_all(), ColourEncoder(noise=0.3)
    before, out = [part.digest for part in sets.parts().values()], []
    vectors = Vectors(encoder)
    first = probe.run(vectors, sets)
    kept = {key: row.copy() for key, row in vectors._images.items()}
    again = probe.run(vectors, sets)
    fresh = probe.run(Vectors(ColourEncoder(noise=0.3)), sets_for_all())
    if not first.to_json() == again.to_json() == fresh.to_json():
        out.append("two runs differ")
    after = [replace(part).digest for part in sets.parts().values()]
    if before != after or any((vectors._images[key] != row).any() for key, row in kept.items()):
        out.append("it changes what it was given")
    turned = replace(sets.test, items=tuple(sets.test.items[::-1]))
    other = probe.run(Vectors(encoder), replace(sets, test=turned))
    for one, two in zip(first.metrics, other.metrics, strict=True):
        if not math.isclose(one.value, two.value, rel_tol=1e-5, abs_tol=1e-6) and not math.isnan(one.value):
            out.append(f"{one.name} depends on the order of the items")
    return out + faults_of_report(first, sets)


def faults_of_report(report: Report, sets: Sets) -> list[str]:
    """What is wrong with a report by itself."""
    out = [f"{m.name} has no n" for m in report.metrics if m.n < 1]
    for m in report.metrics:
        if m.interval == "wilson" and not m.low - 1e-9 <= m.value <= m.high + 1e-9:
            out.append(f"{m.name} is outside its interval")
    names = [m.name for m in report.metrics]
    if len(set(names)) < len(names):
        out.append("a number comes twice")
    if not report.rows or any(list(row) != list(report.rows[0]) for row in report.rows):
        out.append("rows are missing or uneven")
    known = {item.id for part in sets.parts().values() for item in part.items}
    if not {row["id"] for row in report.rows if "id" in row} | {e.id for e in report.examples} <= known:
        out.append("ids that no item has")
    json.dumps(report.to_json(), allow_nan=False)
    return out


@pytest.mark.parametrize("name", probes.names())
def test_probes_keep_the_contract(name: str) -> None:
    probe = probes.load(name, **SMALL.get(name, {}))
    assert is_dataclass(probe)
    assert probe.__dataclass_params__.frozen
    assert {f.name for f in fields(probe)} == set(vars(probe))
    assert faults(probe) == []


def report_of(hits: np.ndarray, sets: Sets, **extra: object) -> Report:
    rows = tuple({"id": item.id, "hit": bool(hit)} for item, hit in zip(sets.test.items, hits, strict=True))
    return Report("broken", "m", "d", (share("acc1", hits),), rows, **extra)


@dataclass(frozen=True)
class Unseeded:
    """Draws from nowhere."""

    def run(self, vectors: Vectors, sets: Sets) -> Report:
        return report_of(np.random.default_rng().random(len(sets.test)) < 0.5, sets)


@dataclass(frozen=True)
class Scribbler:
    """Writes on the vectors that all probes share."""

    def run(self, vectors: Vectors, sets: Sets) -> Report:
        vectors.images(sets.test.items)
        for row in vectors._images.values():
            row += 1
        return report_of(np.ones(len(sets.test), bool), sets)


@dataclass(frozen=True)
class WrongOrder:
    """Takes the first half of the items for a training set."""

    def run(self, vectors: Vectors, sets: Sets) -> Report:
        X = vectors.images(sets.test.items)
        half = len(X) // 2
        hits = np.arange(len(X)) < half
        value = float(X[:half].sum())
        return replace(report_of(hits, sets), metrics=(Metric("sum", value, half),))


@pytest.mark.parametrize(
    ("probe", "reason"),
    [
        (Unseeded(), "two runs differ"),
        (Scribbler(), "it changes what it was given"),
        (WrongOrder(), "sum depends on the order of the items"),
    ],
)
def test_broken_probes_are_seen(probe: Probe, reason: str) -> None:
    assert reason in faults(probe)


def test_ece_is_a_plain_function_too() -> None:
    assert ece([0.9, 0.8], [1, 0]) == pytest.approx(0.5 * 0.1 + 0.5 * 0.8)
