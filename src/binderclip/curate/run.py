"""Drives a curator over a source, piece by piece, in this process or in several; stopped at any moment, it goes on.

    OUT/settings.json      method, settings and pieces: what a run must share to go on
    OUT/scan/00000.npz     a piece after the first pass: its partial, and the columns that the second pass judges by
    OUT/plan.npz           the plan
    OUT/verdicts/00000.parquet (.jsonl without pyarrow)     id, keep, weight, score, group, reason, caption
    OUT/added/00000.tar    rows that the method made, where it makes any
    OUT/kept.txt           ids of the rows that are kept, one a line; kept.jsonl or kept/00000.tar when they are wanted
    OUT/summary.json       counts by reason

Every file is whole or absent. How many pieces or workers there are changes no verdict.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, wait
from dataclasses import asdict
from functools import reduce
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np

from binderclip.curate.base import Arrays, Batch, Curator, batches, kind_of, scan_rows
from binderclip.curate.pieces import Piece, pieces, rows_of
from binderclip.curate.tables import (
    chosen,
    has_parquet,
    read_arrays,
    read_table,
    write_arrays,
    write_list,
    write_table,
    write_tar,
)
from binderclip.data.files import whole_file, write_whole
from binderclip.data.pairs import Pair, Pairs
from binderclip.errors import BinderclipError, InputError

__all__ = ["Listener", "Write", "curate", "read_verdicts"]

#: Called with the pass ("scan", "judge", "write"), pieces done and pieces in all.
Listener = Callable[[str, int, int], None]
#: What is written of the kept rows beside their ids.
Write = Literal["ids", "list", "tar"]
_SIZE = 1024  # rows of a batch


def curate(
    make: Callable[[], Curator],
    source: Callable[[], Pairs],
    out: Path,
    *,
    method: str = "",
    workers: int = 0,
    rows: int = 10_000,
    write: Write = "ids",
    listener: Listener | None = None,
) -> dict[str, Any]:
    """Both passes over a source, into a folder.

    Args:
        make: makes the curator; with workers it must be picklable, as `functools.partial(MetaCLIP, ...)` is.
        source: opens the pairs, as `functools.partial(Pairs.open, "pairs/")`.
        out: the folder; a run that was stopped there goes on.
        method: name kept with the settings.
        workers: processes; 0 does everything in this one.
        rows: of a piece, where the source is no shards.
        write: "ids", or also the rows as a "list" of files (kept.jsonl) or as "tar" shards (kept/).
        listener: told of progress.

    Returns:
        The summary: rows, kept, written, added, bad rows by reason, and for each kind of reason rows and kept.

    Raises:
        InputError: the folder holds another run or other files, or the rows do not hold what the method needs;
            nothing is left of a run that was begun by this call.
    """
    job = _Job(make, source, out, rows)
    facts = {"method": method, "settings": job.curator.settings(), "pieces": [asdict(piece) for piece in job.pieces]}
    begun = _prepare(out, facts)
    tell = listener or (lambda name, done, total: None)
    with _workers(job, workers) as pool:
        try:
            _all(job, pool, "scan", tell)
            if not (out / "plan.npz").is_file():
                write_arrays(out / "plan.npz", job.curator.close(_merged(job)))
        except BinderclipError:
            if begun:
                shutil.rmtree(out)
            raise
        _all(job, pool, "judge", tell)
    return _finish(job, write, tell)


def read_verdicts(out: Path) -> Iterator[dict[str, list[Any]]]:
    """The tables of a run, piece after piece, as columns."""
    for path in sorted((out / "verdicts").glob("[0-9]*")):
        yield read_table(path)


class _Job:
    """What a process needs to work on any piece."""

    def __init__(self, make: Callable[[], Curator], source: Callable[[], Pairs], out: Path, rows: int) -> None:
        self.make, self.source, self.out, self.rows = make, source, out, rows
        self.curator, self.pairs = make(), source()
        self.pieces: list[Piece] = pieces(self.pairs, rows)

    def path(self, folder: str, number: int) -> Path:
        suffix = {"scan": "npz", "judge": "parquet" if has_parquet() else "jsonl"}.get(folder, "tar")
        return self.out / {"judge": "verdicts"}.get(folder, folder) / f"{number:05d}.{suffix}"

    def scan(self, number: int) -> None:
        bad: Counter[str] = Counter()
        kept: dict[str, Any] = {}

        def walk() -> Iterator[Batch]:
            some = batches(rows_of(self.pairs, self.pieces[number], bad), self.curator, _SIZE)
            for b, batch in enumerate(some):
                kept[f"{b}/ids"] = np.array(batch.ids)
                if not self.curator.again:
                    kept.update({f"{b}/column/{name}": array for name, array in batch.columns.items()})
                yield batch

        partial = {f"partial/{name}": array for name, array in scan_rows(self.curator, walk()).items()}
        write_arrays(self.path("scan", number), partial | kept | {"bad": np.array(json.dumps(bad))})

    def judge(self, number: int) -> None:
        plan = read_arrays(self.out / "plan.npz")
        table: dict[str, list[Any]] = {}
        added: list[Pair] = []
        for batch in self._again(number):
            verdict = self.curator.judge(batch, plan)
            added += verdict.added
            for name, values in verdict.columns(batch.ids).items():
                table.setdefault(name, []).extend(values)
        if added:
            (self.out / "added").mkdir(exist_ok=True)
            write_tar(self.path("added", number), added)
        write_table(self.path("judge", number), table)

    def _again(self, number: int) -> Iterator[Batch]:
        """The batches of a piece for the second pass; the empty one if there are none, for the columns' names."""
        arrays = read_arrays(self.path("scan", number))
        if self.curator.again:
            yield from batches(rows_of(self.pairs, self.pieces[number]), self.curator, _SIZE)
        else:
            for b in range(sum(name.endswith("/ids") for name in arrays)):
                head = f"{b}/column/"
                columns = {name.removeprefix(head): a for name, a in arrays.items() if name.startswith(head)}
                yield Batch(tuple(arrays[f"{b}/ids"].tolist()), columns)
        if "0/ids" not in arrays:
            yield Batch((), self.curator.read(()))


def _prepare(out: Path, facts: Mapping[str, Any]) -> bool:
    """Makes the folder (True), or checks that it holds the same run (False)."""
    path = out / "settings.json"
    wanted = json.loads(json.dumps(facts))
    if path.is_file():
        held = json.loads(path.read_text("utf-8"))
        for name, what in (("method", "method"), ("settings", "settings"), ("pieces", "source")):
            if held.get(name) != wanted[name]:
                raise InputError(f"{out} holds a run with another {what}: choose another --out")
        return False
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is there already and is no curation: choose another --out")
    (out / "scan").mkdir(parents=True, exist_ok=True)
    (out / "verdicts").mkdir(exist_ok=True)
    write_whole(path, json.dumps(wanted, indent=1).encode())
    return True


def _all(job: _Job, pool: Executor | None, name: str, tell: Listener) -> None:
    """One pass over the pieces that it has not done yet."""
    total = len(job.pieces)
    left = [number for number in range(total) if not job.path(name, number).is_file()]
    tell(name, total - len(left), total)
    if pool is None:
        for done, number in enumerate(left, total - len(left) + 1):
            getattr(job, name)(number)
            tell(name, done, total)
        return
    waiting = {pool.submit(_work, name, number) for number in left}
    while waiting:
        ready, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        for future in ready:
            future.result()
        tell(name, total - len(waiting), total)


def _merged(job: _Job) -> Arrays:
    """The partial of all pieces; the columns of a piece stay on the disk."""

    def partial(number: int) -> Arrays:
        arrays = read_arrays(job.path("scan", number))
        return {name.removeprefix("partial/"): a for name, a in arrays.items() if name.startswith("partial/")}

    empty = job.curator.scan(Batch((), job.curator.read(())))
    return reduce(job.curator.merge, (partial(number) for number in range(len(job.pieces))), empty)


def _finish(job: _Job, write: Write, tell: Listener) -> dict[str, Any]:
    """The kept ids, the kept rows where they are wanted, and the summary."""
    reasons: dict[str, list[int]] = {}
    rows = kept = 0
    with whole_file(job.out / "kept.txt") as stream:
        for table in read_verdicts(job.out):
            for key, keep, reason in zip(*(table.get(name, []) for name in ("id", "keep", "reason")), strict=True):
                counts = reasons.setdefault(kind_of(reason), [0, 0])
                counts[0] += 1
                counts[1] += keep
                rows, kept = rows + 1, kept + keep
                if keep:
                    stream.write(key.encode("utf-8", "surrogateescape") + b"\n")
    bad: Counter[str] = Counter()
    for number in range(len(job.pieces)):
        with np.load(job.path("scan", number), allow_pickle=False) as file:
            bad.update(json.loads(str(file["bad"])))
    summary = {
        "rows": rows,
        "kept": kept,
        "written": _write_rows(job, write, tell) if write != "ids" else 0,
        "added": sum(_count(path) for path in sorted((job.out / "added").glob("*.tar"))),
        "reasons": {name: {"rows": n, "kept": k} for name, (n, k) in sorted(reasons.items())},
        "bad": dict(bad.most_common()),
        "about": job.curator.about(read_arrays(job.out / "plan.npz")),
    }
    write_whole(job.out / "summary.json", json.dumps(summary, indent=1).encode())
    return summary


def _write_rows(job: _Job, write: Write, tell: Listener) -> int:
    """The kept rows; how many there are, without those whose file cannot be read."""
    total, count = len(job.pieces), 0

    def some(number: int) -> Iterator[Pair]:
        verdicts = read_table(job.path("judge", number))
        return chosen(rows_of(job.pairs, job.pieces[number]), verdicts)

    if write == "tar":
        (job.out / "kept").mkdir(exist_ok=True)
        for number in range(total):
            if not job.path("kept", number).is_file():
                write_tar(job.path("kept", number), some(number))
            count += _count(job.path("kept", number))
            tell("write", number + 1, total)
        return count
    with whole_file(job.out / "kept.jsonl") as stream:
        for number in range(total):
            count += write_list(stream, some(number))
            tell("write", number + 1, total)
    return count


def _count(path: Path) -> int:
    """Rows of a tar of ours."""
    import tarfile

    with tarfile.open(path) as tar:
        return sum(name.endswith(".json") for name in tar.getnames())


# -- worker processes ------------------------------------------------------------------------------------------------------

_job: _Job | None = None


class _workers:  # noqa: N801 - used as a function
    """A pool whose processes have made the job once, or None; leaving it takes back what has not been begun."""

    def __init__(self, job: _Job, count: int) -> None:
        self.pool: ProcessPoolExecutor | None = None
        if count > 0:
            begin = (job.make, job.source, job.out, job.rows)
            # spawn: a fork of a process with threads (torch, Arrow) may hang
            self.pool = ProcessPoolExecutor(count, get_context("spawn"), initializer=_begin, initargs=begin)

    def __enter__(self) -> ProcessPoolExecutor | None:
        return self.pool

    def __exit__(self, *problem: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)


def _begin(make: Callable[[], Curator], source: Callable[[], Pairs], out: Path, rows: int) -> None:
    global _job
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is the caller's to answer: a piece that was begun is ended whole
    _job = _Job(make, source, out, rows)


def _work(name: str, number: int) -> None:
    assert _job is not None
    getattr(_job, name)(number)
