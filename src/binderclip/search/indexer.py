"""Brings an index up to date with folders: reads what changed, in threads, while the model encodes."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from binderclip.data.video import is_video
from binderclip.search.frames import take_video
from binderclip.search.reading import Outcome, read_picture
from binderclip.search.scan import Found, Scan
from binderclip.search.store import Entry, Known, Model, Problem, show_path
from binderclip.search.types import EncoderLike
from binderclip.search.writer import Writer

__all__ = ["Clock", "Plan", "Progress", "Report", "is_below", "make_plan", "read_batches", "run_plan"]


@dataclass
class Plan:
    """What a run has to do.

    Args:
        read: files that are new, changed, or lack a vector of this model.
        unchanged: how many are as they were.
        back: paths that were missing and are there again, unchanged.
        missing: paths that are gone.
        known_bad: files that could not be indexed before and have not changed.
        kept: roots that gave nothing while the index holds files below them: an unmounted disk, not a deletion.
    """

    read: list[Found] = field(default_factory=list)
    unchanged: int = 0
    back: list[bytes] = field(default_factory=list)
    missing: list[bytes] = field(default_factory=list)
    known_bad: list[Problem] = field(default_factory=list)
    kept: list[bytes] = field(default_factory=list)


@dataclass
class Progress:
    """Where a run is: for a progress line.

    Args:
        done: files dealt with.
        total: files to deal with.
        rate: files a second.
        limited_by: "reading and decoding", "the model" or "the disk"; empty before anything is known.
        within: where it is in a long file, as in "trip.mp4 at 0:12 of 3:05".
    """

    done: int
    total: int
    rate: float
    limited_by: str
    within: str = ""


@dataclass
class Report:
    """What a run did; `bad` and `known_bad` are (path, reason); `damaged` are videos that are indexed in part."""

    found: int = 0
    encoded: int = 0
    same_content: int = 0
    unchanged: int = 0
    back: int = 0
    missing: int = 0
    bad: list[tuple[str, str]] = field(default_factory=list)
    known_bad: list[tuple[str, str]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    needs: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    rate: float = 0.0
    limited_by: str = ""
    frames: int = 0
    damaged: list[tuple[str, str]] = field(default_factory=list)

    @property
    def indexed(self) -> int:
        """Files that were found and can now be searched."""
        return self.encoded + self.same_content + self.unchanged + self.back


def make_plan(found: Scan, known: dict[bytes, Known], problems: Sequence[Problem], *, retry: bool = False) -> Plan:
    """Compares what is on the disk with what the index knows; reads no file.

    Args:
        found: the walk.
        known: path -> what the index knows, for the model in use.
        problems: files that could not be indexed before.
        retry: try those again even if they have not changed.
    """
    plan = Plan()
    bad = {} if retry else {problem.path: problem for problem in problems}
    for file in found.files:
        was, trouble = known.get(file.path), bad.get(file.path)
        if was is not None and was.encoded and (was.size, was.mtime_ns) == (file.size, file.mtime_ns):
            if was.missing:
                plan.back.append(file.path)
            else:
                plan.unchanged += 1
        elif trouble is not None and (trouble.size, trouble.mtime_ns) == (file.size, file.mtime_ns):
            plan.known_bad.append(trouble)
        else:
            plan.read.append(file)
    _find_missing(plan, found, known, [problem.path for problem in problems])
    return plan


def _find_missing(plan: Plan, found: Scan, known: dict[bytes, Known], problems: Sequence[bytes]) -> None:
    seen = {file.path for file in found.files}
    gone = [path for path, was in known.items() if not was.missing and path not in seen]
    gone += [path for path in problems if path not in seen]
    unread = list(found.unreadable)
    for root in found.roots:
        below = [path for path in gone if is_below(path, root) and not any(is_below(path, one) for one in unread)]
        if below and not any(is_below(path, root) for path in seen):
            plan.kept.append(root)
        else:
            # What is still there was left out by --ignore, a hidden name or a missing extra: not a deletion.
            plan.missing += [path for path in below if not os.path.lexists(os.fsdecode(path))]
    plan.kept += [root for root in found.absent if any(is_below(path, root) for path in gone)]
    plan.missing = sorted(set(plan.missing))


def is_below(path: bytes, root: bytes) -> bool:
    """Whether a path is a root or lies below it."""
    separator = os.fsencode(os.sep)
    return path == root or path.startswith(root.rstrip(separator) + separator)


class Clock:
    """Where the time goes: waiting for files, in the model, or writing.

    Args:
        total: files to deal with.
    """

    def __init__(self, total: int) -> None:
        self.start = time.perf_counter()
        self.total, self.done = total, 0
        self.spent = {"reading and decoding": 0.0, "the model": 0.0, "the disk": 0.0}

    def progress(self) -> Progress:
        """Where the run is now."""
        passed = max(time.perf_counter() - self.start, 1e-9)
        most = max(self.spent, key=lambda name: self.spent[name])
        return Progress(self.done, self.total, self.done / passed, most if self.spent[most] else "")

    def measure(self, what: str, since: float) -> None:
        """Adds the time since a moment to one of the three."""
        self.spent[what] += time.perf_counter() - since


def run_plan(
    writer: Writer,
    model: Model,
    encoder: EncoderLike,
    plan: Plan,
    *,
    batch: int = 32,
    threads: int | None = None,
    every: float = 1.0,
    on_progress: Callable[[Progress], None] | None = None,
    on_bad: Callable[[str, str], None] | None = None,
) -> Report:
    """Does what a plan says: pictures, then videos, in the order of their paths; a stop loses at most one batch.

    Args:
        writer: the index.
        model: whose vectors are made.
        encoder: makes them.
        plan: from `make_plan`.
        batch: pictures encoded, and files committed, together.
        threads: that read and decode; the default is one per core, at most 8.
        every: seconds between the frames of a video.
        on_progress: called after each batch.
        on_bad: called with (path, reason) of each file that cannot be indexed.
    """
    report = Report(found=len(plan.read) + plan.unchanged + len(plan.back) + len(plan.known_bad))
    report.unchanged, report.back, report.missing = plan.unchanged, len(plan.back), len(plan.missing)
    report.known_bad = [(show_path(problem.path), problem.reason) for problem in plan.known_bad]
    report.kept = [show_path(path) for path in plan.kept]
    writer.mark(plan.back, missing=False)
    writer.mark(plan.missing, missing=True)
    clock = Clock(len(plan.read))
    encoded = writer.encoded(model.id)
    waited = partial(clock.measure, "reading and decoding")
    videos = [file for file in plan.read if is_video(file.path)]
    pictures = [file for file in plan.read if not is_video(file.path)] if videos else plan.read
    for outcomes in read_batches(pictures, encoder, encoded, batch=batch, threads=threads, on_wait=waited):
        _commit(writer, model, encoder, outcomes, encoded, report, clock, on_bad)
        clock.done += len(outcomes)
        if on_progress is not None:
            on_progress(clock.progress())
    for file in videos:
        take_video(writer, model, encoder, file, encoded, report, clock, (every, batch), on_progress, on_bad)
    last = clock.progress()
    report.seconds, report.rate, report.limited_by = time.perf_counter() - clock.start, last.rate, last.limited_by
    return report


def read_batches(
    files: Sequence[Found],
    encoder: EncoderLike,
    encoded: Collection[bytes] = frozenset(),
    *,
    batch: int = 32,
    threads: int | None = None,
    on_wait: Callable[[float], None] | None = None,
) -> Iterator[list[Outcome]]:
    """Reads and decodes files in threads, at most two batches ahead of the caller.

    Args:
        files: what to read.
        encoder: makes the model's input.
        encoded: hashes of contents that need no decoding; may grow meanwhile.
        batch: new pictures in a batch; what is bad or known comes on top.
        threads: the default is one per core, at most 8.
        on_wait: called after each wait for a file, with when it began.

    Yields:
        Outcomes in the order of the files.
    """
    threads = threads or min(os.cpu_count() or 1, 8)
    ahead: deque[Future[Outcome]] = deque()
    todo = iter(files)
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            outcomes: list[Outcome] = []
            new: set[bytes] = set()
            while True:
                while len(ahead) < 2 * batch + threads and (file := next(todo, None)) is not None:
                    ahead.append(pool.submit(read_picture, file, encoder, encoded))
                if not ahead:
                    break
                since = time.perf_counter()
                outcome = ahead.popleft().result()
                if on_wait is not None:
                    on_wait(since)
                outcomes.append(outcome)
                if outcome.pixels is not None and outcome.content not in encoded:
                    new.add(outcome.content)
                # Files without a new picture are cheap: a large batch of them is one commit.
                if len(new) == batch or len(outcomes) == 16 * batch:
                    yield outcomes
                    outcomes, new = [], set()
            if outcomes:
                yield outcomes
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _commit(
    writer: Writer,
    model: Model,
    encoder: EncoderLike,
    outcomes: Sequence[Outcome],
    encoded: set[bytes],
    report: Report,
    clock: Clock,
    on_bad: Callable[[str, str], None] | None,
) -> None:
    fresh = {one.content: one for one in outcomes if one.pixels is not None and one.content not in encoded}
    since = time.perf_counter()
    vectors = {}
    if fresh:
        pixels = np.stack([one.pixels for one in fresh.values() if one.pixels is not None])  # [N, H, W, 3]
        vectors = dict(zip(fresh, encoder.encode_pixels(pixels), strict=True))
    clock.measure("the model", since)
    entries, problems = [], []
    for one in outcomes:
        found = one.found
        if one.needs:
            report.needs[one.needs] = report.needs.get(one.needs, 0) + 1
        elif one.reason:
            problems.append(Problem(found.path, found.size, found.mtime_ns, one.reason))
        else:
            vector = vectors.pop(one.content, None)  # the first path to a content brings its vector
            entries.append(
                Entry(found.path, found.size, found.mtime_ns, one.content, one.width, one.height, one.taken, vector)
            )
            report.encoded += vector is not None
            report.same_content += vector is None
    since = time.perf_counter()
    writer.commit(model, entries, problems)
    clock.measure("the disk", since)
    encoded.update(fresh)
    for problem in problems:
        shown = show_path(problem.path)
        report.bad.append((shown, problem.reason))
        if on_bad is not None:
            on_bad(shown, problem.reason)
