"""Measuring engines on this machine: pictures a second by engine, threads and batch, and the time of one text."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from binderclip.engine.encoder import Encoder
from binderclip.engine.opening import open_model
from binderclip.engine.tuned import Tuned, available_engines
from binderclip.errors import BinderclipError

__all__ = ["Speed", "best_of", "measure"]

BATCHES = (1, 8, 16, 32)
#: A way of running at less than this share of the best one is not tried with further batches.
HOPELESS = 0.25
TEXT = "a red bicycle leaning on a wall"


@dataclass(frozen=True)
class Speed:
    """One way of running a model.

    Attributes:
        engine: ``onnx``, ``openvino`` or ``torch``.
        threads: for the model.
        batch: pictures a call.
        images: pictures a second, of the image tower alone; the median of the rounds.
        text_ms: milliseconds for one text, with its tokens; the median.
    """

    engine: str
    threads: int
    batch: int
    images: float
    text_ms: float


def measure(
    name: str,
    *,
    seconds: float = 1.0,
    batches: tuple[int, ...] = BATCHES,
    on_skipped: Callable[[str, str], None] = lambda engine, reason: None,
) -> Iterator[Speed]:
    """Run a model in every way that this machine can.

    Args:
        name: whatever ``Encoder`` takes.
        seconds: of each measurement, in three rounds.
        batches: pictures a call to try.
        on_skipped: called with an engine that cannot run this model, and why.

    Raises:
        BinderclipError: no engine can run it; what the first one said.
    """
    cores = os.cpu_count() or 1
    first: BinderclipError | None = None
    most = 0.0
    for engine in available_engines():
        for threads in sorted({1, max(cores // 2, 1), cores}):
            try:
                encoder = Encoder(name, threads=threads, engine=engine)
                text_ms = 1000 / _rate(partial(encoder.encode_text, [TEXT]), 1, seconds / 2)
            except BinderclipError as error:
                first = first or error
                on_skipped(engine, str(error))
                break
            for batch in batches:
                images = _rate(partial(encoder.towers.image, _noise(encoder, batch)), batch, seconds)
                yield Speed(engine, threads, batch, images, text_ms)
                most = max(most, images)
                if images < HOPELESS * most:
                    break
    if not most and first is not None:
        raise first


def best_of(found: list[Speed]) -> Tuned:
    """The fastest for pictures; of ways within 3 % of it the one with fewer threads and the smaller batch."""
    most = max(speed.images for speed in found)
    near = [speed for speed in found if speed.images >= 0.97 * most]
    best = min(near, key=lambda speed: (speed.threads, speed.batch, -speed.images))
    return Tuned(best.engine, best.threads, best.batch)


def fingerprint(name: str) -> str:
    """Of a model, as every engine has it."""
    return open_model(name, engine=None).fingerprint


def _noise(encoder: Encoder, batch: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    size = encoder.preprocess.size
    return np.random.default_rng(0).standard_normal((batch, 3, size, size), dtype=np.float32)


def _rate(work: Callable[[], object], items: int, seconds: float) -> float:
    """Items a second: the median of three rounds behind a warm one."""
    work()
    rates = []
    for _ in range(3):
        began, count = time.perf_counter(), 0
        while True:
            work()
            count += items
            spent = time.perf_counter() - began
            if spent >= seconds / 3:
                break
        rates.append(count / spent)
    return statistics.median(rates)
