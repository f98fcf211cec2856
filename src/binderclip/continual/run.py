"""Runs a strategy through a stream, measures it on every task behind every task, and keeps what is needed to go on."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from binderclip.continual.base import Floats, Listener, Rows, Strategy, Stream
from binderclip.continual.metrics import summary, zero_shot_degradation
from binderclip.data.files import write_whole
from binderclip.errors import InputError

__all__ = ["ContinualReport", "accuracy", "run"]


@dataclass(frozen=True, eq=False)
class ContinualReport:
    """What came of a run; accuracies in percent.

    Args:
        R: ``[T, T]``, NaN where a strategy cannot name a task's classes yet.
        Z: ``[T]`` of the untouched model.
        n: ``[T]`` test rows.
        held_out: ``[T, H]`` accuracy on sets that are no tasks.
        held_out_before: ``[H]`` of the untouched model.
        names: of the tasks.
        metrics: numbers by name.
        seconds: of learning, a task.
        trainable: weights that are trained.
        bytes: kept beside the model at the end.
        seen: training rows looked at.
    """

    R: Floats
    Z: Floats
    n: tuple[int, ...]
    held_out: Floats
    held_out_before: Floats
    names: tuple[str, ...]
    metrics: dict[str, float]
    seconds: tuple[float, ...]
    trainable: int
    bytes: int
    seen: int
    facts: dict[str, Any] = field(default_factory=dict)


def accuracy(strategy: Strategy, rows: Rows, classes: Sequence[str], task: Any = None) -> float:
    """Percent of rows whose class scores above all others before it in the list."""
    if not len(rows):
        return float("nan")
    blind = replace(rows, y=("",) * len(rows))
    scores = np.asarray(strategy.logits(blind, classes, task))
    at = {name: k for k, name in enumerate(classes)}
    return 100.0 * float((scores.argmax(1) == np.array([at[name] for name in rows.y])).mean())


def run(
    strategy: Strategy,
    encoder: Any,
    stream: Stream,
    *,
    held_out: Sequence[Any] = (),
    untouched: Strategy | None = None,
    folder: Path | None = None,
    listener: Listener = lambda event: None,
) -> ContinualReport:
    """Learn and measure.

    Args:
        strategy: fresh.
        encoder: handed to `Strategy.begin`.
        stream: the tasks.
        held_out: tasks that are only measured on, each with its own classes.
        untouched: a strategy of the model as it was, for Z; by default Z is NaN.
        folder: state and rows are kept there behind each task; a run that is there goes on.
        listener: told each step: ``{"task", "row"}``.

    Raises:
        InputError: the folder holds a run of another stream.
    """
    T, H = len(stream.tasks), len(held_out)
    R, Hs = np.full((T, T), np.nan), np.full((T, H), np.nan)
    Z, Hz = np.full(T, np.nan), np.full(H, np.nan)
    seconds: list[float] = []
    strategy.begin(encoder, T if strategy.needs_count else None)
    if untouched is not None:
        untouched.begin(encoder)
        Z = np.array([accuracy(untouched, t.test, stream.candidates(j, j), t) for j, t in enumerate(stream.tasks)])
        Hz = np.array([accuracy(untouched, t.test, t.classes, t) for t in held_out])
    facts = {"kind": stream.kind, "tasks": [task.name for task in stream.tasks], "classes": list(stream.classes)}
    done = _restore(folder, facts, strategy, R, Hs, seconds)
    for i, task in enumerate(stream.tasks[done:], done):
        began, shown = time.perf_counter(), task.without_test()
        strategy.before_task(shown)
        strategy.fit_task(shown)
        strategy.after_task(shown)
        seconds.append(time.perf_counter() - began)
        for j, other in enumerate(stream.tasks):
            if j <= i or strategy.open_vocabulary:
                R[i, j] = accuracy(strategy, other.test, stream.candidates(i, j), other.without_test())
        for h, other in enumerate(held_out if strategy.open_vocabulary else ()):
            Hs[i, h] = accuracy(strategy, other.test, other.classes, other.without_test())
        _keep(folder, facts, strategy, R, Hs, seconds)
        listener({"task": i, "row": R[i].tolist(), "seconds": seconds[-1]})
    n = tuple(len(task.test) for task in stream.tasks)
    metrics = summary(R, Z, n)
    if H:
        metrics["zero_shot_degradation"] = float(zero_shot_degradation(Hz, Hs)[-1])
    seen = sum(len(task.train) for task in stream.tasks)
    names = tuple(task.name for task in stream.tasks)
    return ContinualReport(
        R, Z, n, Hs, Hz, names, metrics, tuple(seconds), strategy.trainable, strategy.bytes(), seen, dict(facts)
    )


def _keep(
    folder: Path | None, facts: dict[str, Any], strategy: Strategy, R: Floats, H: Floats, seconds: list[float]
) -> None:
    """One file, whole at every moment: the state, the rows so far, and what they are of."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    state = {f"state/{key}": value for key, value in strategy.state_dict().items()}
    about = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    np.savez(buffer, R=R, H=H, seconds=np.array(seconds), about=about, **state)  # type: ignore[arg-type]
    write_whole(folder / "run.npz", buffer.getvalue())


def _restore(
    folder: Path | None, facts: dict[str, Any], strategy: Strategy, R: Floats, H: Floats, seconds: list[float]
) -> int:
    """How many tasks are done."""
    if folder is None or not (folder / "run.npz").is_file():
        return 0
    try:
        with np.load(folder / "run.npz", allow_pickle=False) as kept:
            held = {key: kept[key] for key in kept.files}
        about = json.loads(held["about"].tobytes())
    except (ValueError, KeyError, OSError) as error:
        raise InputError(f"{folder / 'run.npz'} is damaged ({error}): remove it to begin again") from None
    if about != facts or held["R"].shape != R.shape or held["H"].shape != H.shape:
        raise InputError(f"{folder} holds a run of another stream: choose another folder")
    R[:], H[:] = held["R"], held["H"]
    seconds += held["seconds"].tolist()
    strategy.load_state_dict({key.removeprefix("state/"): v for key, v in held.items() if key.startswith("state/")})
    return len(seconds)
