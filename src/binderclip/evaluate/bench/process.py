"""A method answers in a process of its own, which never held what its answers are judged by."""

from __future__ import annotations

import importlib
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from binderclip.data.exams import Exam

__all__ = ["Answer", "ask"]


@dataclass(frozen=True)
class Answer:
    """What came back.

    Args:
        value: the answer, or None where the method failed.
        error: one line that says why.
        cpu: seconds of processor time, of all its threads.
        wall: seconds.
        memory: bytes by which the answer raised the process's peak; NaN where unknown.
        notes: what it warned of.
    """

    value: Any = None
    error: str = ""
    cpu: float = float("nan")
    wall: float = float("nan")
    memory: float = float("nan")
    notes: tuple[str, ...] = ()


def ask(module: str, slug: str, exams: Sequence[Exam]) -> Iterator[Answer]:
    """Put one exam after the other to a method; what is sent over is `Exam.given` alone.

    Args:
        module: holds ``answer(slug, given)``.
        slug: of the method.
        exams: the questions.
    """
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    worker = context.Process(target=_answer, args=(theirs, module, slug), daemon=True)
    worker.start()
    theirs.close()
    try:
        for exam in exams:
            try:
                ours.send(dict(exam.given))
                yield Answer(**ours.recv())
            except (EOFError, BrokenPipeError, ConnectionResetError):
                worker.join(5)
                yield Answer(error=f"its process ended with code {worker.exitcode}")
                return
    finally:
        ours.close()
        worker.join(5)
        worker.terminate()


def _answer(pipe: Any, module: str, slug: str) -> None:
    reply = importlib.import_module(module).answer
    while True:
        try:
            given = pipe.recv()
        except (EOFError, OSError):
            return
        before, wall, cpu = _peak(), time.perf_counter(), time.process_time()
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always", UserWarning)
            try:
                made = {"value": reply(slug, given), "error": ""}
            except Exception as error:  # whatever a method does, the others go on
                made = {"value": None, "error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        said = tuple(dict.fromkeys(str(one.message) for one in heard if one.category is UserWarning))
        spent = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "memory": _peak() - before}
        pipe.send({**made, **spent, "notes": said})


def _peak() -> float:
    """The most bytes that this process has had in memory (ru_maxrss would be that of the one that started it)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), float("nan"))
