"""What every curator must do, whatever it chooses by: the room's one suite. A message begins with the rule it broke."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from binderclip.curate.base import Arrays, Batch, Curator, Verdict, batches, curate_rows, scan_rows
from binderclip.curate.run import curate, read_verdicts
from binderclip.curate.tables import read_arrays, write_arrays
from binderclip.data.pairs import Pair

from .kit import opener, pool, write_pool

Make = Callable[..., Curator]
ORDERS = [(0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 1, 0)]


def by_id(rows: list[Pair], verdict: Verdict) -> dict[str, tuple[Any, ...]]:
    """Everything that was said of a row."""
    table = verdict.columns([row.id for row in rows])
    return dict(zip(table["id"], zip(*table.values(), strict=True), strict=True))


def same(a: Arrays, b: Arrays) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and np.array_equal(a[k], b[k]) for k in a)


def merges_in_any_order(make: Make, folder: Path) -> None:
    """((a b) c) d = a (b (c d)) = any order, to the bit of the plan; the partial of no rows changes nothing."""
    curator, rows = make(), pool()
    parts = [scan_rows(curator, batches(rows[i::4], curator)) for i in range(4)]
    merge = curator.merge
    wanted = curator.close(merge(merge(merge(parts[0], parts[1]), parts[2]), parts[3]))
    nested = merge(parts[0], merge(parts[1], merge(parts[2], parts[3])))
    assert same(curator.close(nested), wanted), "merge: it is not associative"
    for order in ORDERS:
        a, b, c, d = (parts[i] for i in order)
        assert same(curator.close(merge(merge(a, b), merge(c, d))), wanted), "merge: the order changes the plan"
    empty = scan_rows(curator, [])
    assert same(curator.close(merge(empty, nested)), wanted), "merge: the partial of no rows changes the plan"
    assert same(curator.close(merge(nested, empty)), wanted), "merge: the partial of no rows changes the plan"


def judges_each_row_alone(make: Make, folder: Path) -> None:
    """A row's verdict is the same in any batch, beside any neighbours."""
    curator, rows = make(), pool()
    verdict, plan = curate_rows(curator, rows)
    wanted = by_id(rows, verdict)
    for some in (rows[::-1], rows[30:55], rows[3:4]):
        batch = Batch(tuple(row.id for row in some), curator.read(some), tuple(some))
        for key, found in by_id(some, curator.judge(batch, plan)).items():
            assert found == wanted[key], f"alone: {key} is judged by its neighbours in the batch"


def shards_change_nothing(make: Make, folder: Path) -> None:
    """One piece, seven, shuffled rows: the verdicts of the rows in memory; kept ids are those of the verdicts."""
    rows = pool()
    verdict, _ = curate_rows(make(), rows)
    wanted = by_id(rows, verdict)
    for name, some, size in (("one", rows, 1000), ("seven", rows, 20), ("turned", rows[::-1], 33)):
        out = folder / name
        summary = curate(make, opener(write_pool(folder / f"{name}.csv", some)), out, rows=size)
        found = _found(out)
        odd = sorted(key for key in wanted if found.get(key) != wanted[key])
        assert not odd, f"shards: {odd[0]} has another verdict in {name}"
        kept = (out / "kept.txt").read_text().split()
        assert sorted(kept) == sorted(key for key in wanted if wanted[key][1]), "shards: kept.txt is not what was kept"
        assert summary["rows"] == len(rows)
        assert sum(one["rows"] for one in summary["reasons"].values()) == len(rows)


def works_in_processes(make: Make, folder: Path) -> None:
    """Two worker processes write the files that one process writes."""
    source = opener(write_pool(folder / "pool.csv", pool()))
    for name, workers in (("here", 0), ("there", 2)):
        curate(make, source, folder / name, rows=40, workers=workers)
    _same_files(folder / "here", folder / "there", "processes")


def goes_on_where_it_stopped(make: Make, folder: Path) -> None:
    """Stopped in either pass and called again: the same files, and no piece is done twice."""
    source = opener(write_pool(folder / "pool.csv", pool()))
    curate(make, source, folder / "whole", rows=20)
    for stop in (("scan", 3), ("judge", 4)):
        out = folder / stop[0]

        def kill(name: str, done: int, total: int, stop: tuple[str, int] = stop) -> None:
            if (name, done) == stop:
                raise KeyboardInterrupt

        try:
            curate(make, source, out, rows=20, listener=kill)
            raise AssertionError("resumes: it was not stopped")
        except KeyboardInterrupt:
            before = {path: path.stat().st_mtime_ns for path in sorted(out.rglob("0*"))}
            assert not list(out.rglob("*.part")), "resumes: a part of a file is left"
        curate(make, source, out, rows=20)
        _same_files(folder / "whole", out, "resumes")
        again = [path.name for path, time in before.items() if path.stat().st_mtime_ns != time]
        assert not again, f"resumes: {again[0]} was made again"


def obeys_the_seed(make: Make, folder: Path) -> None:
    """One seed, one plan and one verdict, made anew or read from a file."""
    rows = pool()
    (first, plan), (second, other) = curate_rows(make(), rows), curate_rows(make(), rows)
    assert same(plan, other), "seed: another plan by the same seed"
    assert by_id(rows, first) == by_id(rows, second), "seed: another verdict by the same seed"
    write_arrays(folder / "plan.npz", plan)
    curator = make()
    read = Batch(tuple(row.id for row in rows), curator.read(rows), tuple(rows))
    third = curator.judge(read, read_arrays(folder / "plan.npz"))
    assert by_id(rows, first) == by_id(rows, third), "seed: another verdict by the plan from its file"


def says_what_it_did(make: Make, folder: Path) -> None:
    """Weights and scores are finite, what is not kept weighs nothing, every row has a reason; all is fit for JSON."""
    curator, rows = make(), pool()
    verdict, plan = curate_rows(curator, rows)
    assert np.isfinite(verdict.weight).all(), "says: a weight is not finite"
    assert np.isfinite(verdict.score).all(), "says: a score is not finite"
    assert (verdict.weight[verdict.keep] > 0).all(), "says: a kept row weighs nothing"
    assert not verdict.weight[~verdict.keep].any(), "says: a row that is not kept has a weight"
    assert all(verdict.reason), "says: a row has no reason"
    assert all(row.provenance for row in verdict.added), "says: a row was added without provenance"
    json.dumps([curator.settings(), curator.about(plan)])


def _found(out: Path) -> dict[str, tuple[Any, ...]]:
    found: dict[str, tuple[Any, ...]] = {}
    for table in read_verdicts(out):
        found |= dict(zip(table.get("id", ()), zip(*table.values(), strict=True), strict=True))
    return found


def _same_files(a: Path, b: Path, rule: str) -> None:
    names = [{str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()} for place in (a, b)]
    assert names[0] == names[1], f"{rule}: other files"
    for name in sorted(names[0]):
        if name.endswith(".npz"):
            assert same(read_arrays(a / name), read_arrays(b / name)), f"{rule}: {name} differs"
        else:
            assert (a / name).read_bytes() == (b / name).read_bytes(), f"{rule}: {name} differs"


RULES = {
    rule.__name__: rule
    for rule in (
        merges_in_any_order,
        judges_each_row_alone,
        shards_change_nothing,
        works_in_processes,
        goes_on_where_it_stopped,
        obeys_the_seed,
        says_what_it_did,
    )
}
