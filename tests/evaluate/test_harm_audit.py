"""Harm audit: the null, a planted turn, labels that join, thresholds, intervals and near-misses."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from binderclip.errors import InputError
from binderclip.evaluate.data import Dataset, Item, Sets
from binderclip.evaluate.harms import NearMiss, compare, near_miss, open_labels, skewed
from binderclip.evaluate.metrics.statistics import wilson
from binderclip.evaluate.probes.harm_audit import HarmAudit
from binderclip.evaluate.vectors import Vectors
from tests.evaluate.helpers import ColourEncoder, colours, picture

pytestmark = pytest.mark.system("harm_audit")


def grouped(per_class: int = 8) -> Dataset:
    data = colours(per_class)
    return replace(data, items=tuple(replace(i, group="ab"[n % 2]) for n, i in enumerate(data.items)))


def test_shuffled_groups_show_nothing() -> None:
    rng = np.random.default_rng(0)
    hit = np.arange(5000) < 1000
    group = np.array(["a", "b"])[np.arange(5000) % 2]
    found = [compare(hit, rng.permutation(group), seed=k) for k in range(400)]
    assert np.mean([one.p < 0.05 for one in found]) == pytest.approx(0.05, abs=0.035)
    inside = [one.pairs["a", "b"][1] <= 0 <= one.pairs["a", "b"][2] for one in found[:200]]
    assert np.mean(inside) >= 0.92
    assert all(one.largest_difference >= 0 for one in found)  # a largest difference is positive under the null too


def test_a_turned_group_is_found() -> None:
    """Pictures around five classes; those of group B are turned by 10 degrees towards the harm label."""
    rng = np.random.default_rng(0)
    W = np.linalg.qr(rng.normal(size=(32, 6)))[0].T  # five classes and a harm label, at right angles
    found = []
    for _ in range(5):
        X = W[rng.integers(0, 5, 1000)] + 0.6 * rng.normal(size=(1000, 32))
        X /= np.linalg.norm(X, axis=1, keepdims=True)
        turned, B = X.copy(), np.arange(1000) % 2 == 1
        across = W[5] - X * (X @ W[5])[:, None]
        across /= np.linalg.norm(across, axis=1, keepdims=True)
        angle = math.radians(10)
        turned[B] = math.cos(angle) * X[B] + math.sin(angle) * across[B]
        rate = float(((X @ W.T).argmax(1) == 5).mean())
        assert 0.05 <= rate <= 0.2
        found.append(compare((turned @ W.T).argmax(1) == 5, np.where(B, "B", "A")))
    assert all(one.p < 1e-3 for one in found), [one.p for one in found]
    assert all(one.pairs["A", "B"][2] < 0 for one in found)


def test_more_labels_never_raise_a_rate() -> None:
    data, vectors = grouped(), Vectors(ColourEncoder(noise=0.4))
    harms = {"cold": ["blue", "grey"], "warm": ["violet"]}
    names = ["=a yellow red thing", "=something else", "=a green blue thing"]
    last: dict[str, float] = {}
    for count in range(4):
        probe = HarmAudit(base=("red", "green", "yellow"), harms=harms, extra=tuple(names[:count]), templates="plain")
        report = probe.run(vectors, Sets(data))
        if not count:
            last = {f"{h}: {g}": report[f"{h}: {g}"] for h in (*harms, "any harm") for g in "ab"}
            continue
        for key, before in last.items():
            harm, g = key.split(": ")
            now = report[f"{harm}, with extra: {g}"]
            assert now <= before
            assert report[f"{harm}, effect of extra: {g}"] == pytest.approx(report[key] - now, abs=1e-12)
            last[key] = now
    assert sum(last.values()) < sum(report[key] for key in last)  # some label did join in


def test_thresholds() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(40), 50)
    p[0, 0], p[1, 1] = 0.0, 1.0
    assert (open_labels(p, 0.0) == (p > 0)).all()
    assert not open_labels(p, 1.0).any()
    counts = [open_labels(p, t).sum(axis=1) for t in np.linspace(0, 1, 101)]
    assert all((b <= a).all() for a, b in pairwise(counts))
    assert open_labels(np.array([[0.04]]), 0.04).sum() == 0  # strictly over


def test_wilson() -> None:
    from scipy import stats

    z = 1.959963984540054
    for n, p in ((100, 0.05), (100, 0.3), (200, 0.3), (500, 0.1), (1000, 0.2)):
        cover = 0.0
        for k in range(n + 1):
            q = k / n
            half = z * math.sqrt(q * (1 - q) / n + z * z / (4 * n * n))
            want = [(q + z * z / (2 * n) + side * half) / (1 + z * z / n) for side in (-1, 1)]
            low, high = wilson(k, n)
            assert (low, high) == pytest.approx(want, abs=1e-12)
            cover += stats.binom.pmf(k, n, p) * (low <= p <= high)
        assert 0.93 <= cover <= 0.97, (n, p, cover)


def test_near_misses() -> None:
    encoder = ColourEncoder()
    scene = picture("red", 0)
    good = NearMiss(scene, ("a blue thing", "a red thing"), 1)
    assert near_miss(encoder, [good])["coarse_accuracy"] == 1
    assert near_miss(encoder, [good])["chance"] == 0.5
    tied = near_miss(encoder, [replace(good, captions=("a red thing", "a red thing"))])
    assert tied["coarse_accuracy"] == 0
    stress = near_miss(encoder, [replace(good, near="a red thing"), replace(good, near="a grey thing")])
    assert (stress["coarse_accuracy"], stress["stress_accuracy"], stress["near_miss_chosen"]) == (1, 0.5, 0)
    fooled = near_miss(encoder, [NearMiss(scene, ("a blue thing", "a green thing"), 0, near="a red thing")])
    assert fooled["near_miss_chosen"] == 1
    with pytest.raises(InputError, match="at least two captions"):
        near_miss(encoder, [NearMiss(scene, ("one",), 0)])


def test_skew_by_loops() -> None:
    rng = np.random.default_rng(0)
    have, group = rng.random((60, 3)) < 0.3, np.array(["x", "y", "z"])[np.arange(60) % 3]
    have[:, 2] |= group == "y"
    table = skewed(have, ["one", "two", "three"], group)
    assert (table[0].label, table[0].group) == ("three", "y")
    assert table[0].q < 0.01
    for row in table:
        v = ["one", "two", "three"].index(row.label)
        inside = [have[i, v] for i in range(60) if group[i] == row.group]
        other = [have[i, v] for i in range(60) if group[i] != row.group]
        assert row.difference == pytest.approx(np.mean(inside) - np.mean(other))


def test_as_a_probe(tmp_path: Path) -> None:
    data = grouped()
    vectors = Vectors(ColourEncoder())
    harms = {"cold": ["blue", "grey"]}
    report = HarmAudit(base=("red", "green"), harms=harms, subsets={"hot": ["red"]}).run(vectors, Sets(data))
    blue = np.mean([row["prediction"] in harms["cold"] for row in report.rows])
    assert report["cold"] == blue
    assert report["accuracy"] > 0.9
    assert "hot over 0.04: a" in {m.name for m in report.metrics}
    assert any("group a has 24 items only" in note for note in report.notes)
    assert any("red; green; blue; grey" in note for note in report.notes)
    assert {e.id.split("/")[0] for e in report.examples} <= {"blue", "grey", "violet", "yellow"}
    json.dumps(report.to_json(), allow_nan=False)
    file = tmp_path / "labels.json"
    file.write_text(json.dumps({"base": ["red", "green"], "harms": harms}))
    again = HarmAudit(labels=str(file)).run(vectors, Sets(data))
    assert again["cold"] == blue
    alone = HarmAudit().run(vectors, Sets(colours(3)))  # neither groups nor harms: skill and open labels alone
    assert alone["accuracy"] > 0.9


def test_bad_input(tmp_path: Path) -> None:
    vectors, data = Vectors(ColourEncoder()), grouped(2)
    with pytest.raises(InputError, match="'=red' is given twice"):
        HarmAudit(base=("=red", "green"), harms={"x": ["=red"]}).run(vectors, Sets(data))
    with pytest.raises(InputError, match="are mappings"):
        HarmAudit(harms=["animal"])
    (tmp_path / "bad.json").write_text('{"harm": ["x"]}')
    with pytest.raises(InputError, match="'harm' is not understood"):
        HarmAudit(labels=str(tmp_path / "bad.json"))
    bare = Dataset("bare", (Item("0", picture("red", 0)),))
    with pytest.raises(InputError, match="name the labels"):
        HarmAudit().run(vectors, Sets(bare))
