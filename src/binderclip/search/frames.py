"""Videos into an index: a frame a second, each frame a vector with its time, committed batch by batch.

A stop loses at most one batch: what is committed of a half-read video is marked as unfinished, is searched meanwhile, and
the next run goes on behind its last frame. Frames that say the same as the one kept before them are not kept.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from binderclip.data.video import Video
from binderclip.errors import MediaError, NeedsExtraError
from binderclip.search.reading import hash_stream, open_regular
from binderclip.search.scan import Found
from binderclip.search.store import Entry, Model, Problem, show_path
from binderclip.search.types import EncoderLike, FloatArray, Pixels, show_time
from binderclip.search.writer import Writer

if TYPE_CHECKING:
    from binderclip.search.indexer import Clock, Progress, Report

__all__ = ["SAME", "Taken", "changed_frames", "index_video", "take_video", "vectors_of_video"]

#: Cosine from which a frame says the same as the one kept before it.
SAME = 0.995


@dataclass
class Taken:
    """What indexing one video did.

    Args:
        found: the file, as it was when it was read.
        frames: that were kept.
        encoded: the video is new; else its content was known.
        damaged: packets that could not be decoded.
        reason: why it cannot be indexed; empty when it is.
        needs: the extra that is missing.
    """

    found: Found
    frames: int = 0
    encoded: bool = False
    damaged: int = 0
    reason: str = ""
    needs: str = ""


@dataclass(frozen=True)
class _Batch:
    times: list[float]
    pixels: Pixels  # [N, H, W, 3]
    is_last: bool


def index_video(
    writer: Writer,
    model: Model,
    encoder: EncoderLike,
    found: Found,
    encoded: set[bytes],
    *,
    every: float = 1.0,
    batch: int = 32,
    on_batch: Callable[[float, float | None], None] | None = None,
    measure: Callable[[str, float], None] | None = None,
) -> Taken:
    """Reads one video into the index. Never raises for a bad one; then the caller records why.

    Args:
        writer: the index.
        model: whose vectors are made.
        encoder: makes them.
        found: the file, as the walk saw it.
        encoded: hashes of contents that are whole; the video's is added.
        every: seconds between frames.
        batch: frames encoded and committed together.
        on_batch: called after each batch with (seconds done, seconds in all or None).
        measure: called with (what, since) after each wait, encoding and commit.
    """
    taken = Taken(found)
    tell = measure or (lambda what, since: None)
    try:
        with open_regular(found.path) as (stream, facts):
            taken.found = facts
            content = hash_stream(stream)
            if content in encoded:
                writer.commit(model, [Entry(facts.path, facts.size, facts.mtime_ns, content)])
                return taken
            times, rows = writer.frames_of(content, model)
            with Video(stream) as video:
                entry = Entry(facts.path, facts.size, facts.mtime_ns, content, video.width, video.height, video.taken)
                after, last = (times[-1], rows[-1]) if times else (None, None)
                for some in _ahead(video, encoder, every, after, batch, tell):
                    since = time.perf_counter()
                    vectors = _halved(encoder.encode_pixels(some.pixels)) if some.times else rows[:0]  # [N, D]
                    tell("the model", since)
                    kept, last = changed_frames(vectors, last)
                    since = time.perf_counter()
                    if some.is_last:
                        _check_unchanged(stream.fileno(), facts)
                    writer.commit_frames(model, entry, [some.times[i] for i in kept], vectors[kept], whole=some.is_last)
                    tell("the disk", since)
                    taken.frames += len(kept)
                    if on_batch is not None and some.times:
                        on_batch(some.times[-1], video.duration)
                taken.damaged = video.damaged
            encoded.add(content)
            taken.encoded = True
    except NeedsExtraError as error:
        taken.needs = error.extra
    except (MediaError, MemoryError) as error:
        taken.reason = str(error) or "is too large for the memory there is"
    return taken


def take_video(
    writer: Writer,
    model: Model,
    encoder: EncoderLike,
    file: Found,
    encoded: set[bytes],
    report: Report,
    clock: Clock,
    pace: tuple[float, int],
    on_progress: Callable[[Progress], None] | None,
    on_bad: Callable[[str, str], None] | None,
) -> None:
    """Reads one video into the index, and says in the report, the clock and the callbacks what became of it.

    Args:
        writer: the index.
        model: whose vectors are made.
        encoder: makes them.
        file: the video, as the walk saw it.
        encoded: hashes of contents that are whole.
        report: of the run.
        clock: of the run.
        pace: seconds between frames, frames in a batch.
        on_progress: called after each batch.
        on_bad: called with (path, reason) when it cannot be indexed.
    """
    name, shown = os.path.basename(show_path(file.path)), show_path(file.path)

    def tell(now: float, whole: float | None) -> None:
        if on_progress is not None:
            end = "" if whole is None else f" of {show_time(whole)}"
            on_progress(replace(clock.progress(), within=f"{name} at {show_time(now)}{end}"))

    every, batch = pace
    taken = index_video(
        writer, model, encoder, file, encoded, every=every, batch=batch, on_batch=tell, measure=clock.measure
    )
    clock.done += 1
    report.frames += taken.frames
    if taken.needs:
        report.needs[taken.needs] = report.needs.get(taken.needs, 0) + 1
    elif taken.reason:
        problem = Problem(taken.found.path, taken.found.size, taken.found.mtime_ns, taken.reason)
        writer.commit(model, [], [problem])
        report.bad.append((shown, taken.reason))
        if on_bad is not None:
            on_bad(shown, taken.reason)
    else:
        report.encoded += taken.encoded
        report.same_content += not taken.encoded
        if taken.damaged:
            report.damaged.append((shown, "is damaged in part: what could be decoded is indexed"))
    if on_progress is not None:
        on_progress(clock.progress())


def changed_frames(
    vectors: FloatArray, last: FloatArray | None, same: float = SAME
) -> tuple[list[int], FloatArray | None]:
    """Positions of the frames that differ from the frame kept before them.

    Args:
        vectors: of frames in the order of time, unit rows [N, D].
        last: the unit row [D] kept before these, or None at the start of a video.
        same: cosine from which two frames say the same.

    Returns:
        (positions, the row kept last).
    """
    kept = []
    for i, row in enumerate(vectors):
        if last is None or float(row @ last) < same:
            kept.append(i)
            last = row
    return kept, last


def vectors_of_video(
    path: str | os.PathLike[str], encoder: EncoderLike, *, every: float = 1.0, batch: int = 32
) -> tuple[list[float], FloatArray]:
    """Times and unit rows [N, D] of the frames of a video, all of them.

    Raises:
        MediaError: it cannot be decoded.
        NeedsExtraError: PyAV is not installed.
    """
    with Video(path) as video:
        found = [
            (some.times, encoder.encode_pixels(some.pixels))
            for some in _batches(video, encoder, every, None, batch, threading.Event())
            if some.times
        ]
    return [moment for times, _ in found for moment in times], np.concatenate([rows for _, rows in found])


def _halved(rows: FloatArray) -> FloatArray:
    """Rows as they will be read back, so that what is kept does not depend on where a run was stopped."""
    half = np.asarray(rows, dtype="<f2").astype(np.float32)
    norms = np.linalg.norm(half, axis=1, keepdims=True)
    return np.asarray(half / np.maximum(norms, 1e-12), dtype=np.float32)


def _batches(
    video: Video, encoder: EncoderLike, every: float, after: float | None, batch: int, stop: threading.Event
) -> Iterator[_Batch]:
    """Model inputs of the frames, `batch` at a time; the last one may be empty."""
    times: list[float] = []
    pixels: list[Pixels] = []
    for frame in video.frames(every, after=after):
        if stop.is_set():
            return
        if len(times) == batch:
            yield _Batch(times, np.stack(pixels), is_last=False)
            times, pixels = [], []
        times.append(frame.time)
        pixels.append(encoder.pixels(frame.image))
    yield _Batch(times, np.stack(pixels) if pixels else np.zeros((0, 1, 1, 3), np.uint8), is_last=True)


def _ahead(
    video: Video,
    encoder: EncoderLike,
    every: float,
    after: float | None,
    batch: int,
    tell: Callable[[str, float], None],
) -> Iterator[_Batch]:
    """`_batches`, of which the next is decoded in a thread while the caller works on this one."""
    stop = threading.Event()
    batches = _batches(video, encoder, every, after, batch, stop)
    with ThreadPoolExecutor(1, thread_name_prefix="decode") as pool:
        try:
            coming = pool.submit(next, batches, None)
            while True:
                since = time.perf_counter()
                some = coming.result()
                tell("reading and decoding", since)
                if some is None:
                    return
                coming = pool.submit(next, batches, None)
                yield some
        finally:
            stop.set()


def _check_unchanged(handle: int, facts: Found) -> None:
    now = os.fstat(handle)
    if (now.st_size, now.st_mtime_ns) != (facts.size, facts.mtime_ns):
        raise MediaError("changed while it was read")
