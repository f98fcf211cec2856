"""Every method of a room on every exam of its trial; what is measured is kept, so that a stopped bench goes on."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np

from binderclip.cards import Card, cards, find
from binderclip.data.exams import Exam, digest_of
from binderclip.data.files import write_whole
from binderclip.errors import InputError
from binderclip.evaluate.bench.process import Answer, ask
from binderclip.evaluate.metrics.calibration import ece
from binderclip.evaluate.metrics.classification import mean_per_class_recall, true_ranks

__all__ = ["MEASURES", "Result", "bench", "contestants", "rooms", "trial_of"]

#: Task of a trial -> its measures, the most important first, and which way is better.
MEASURES: dict[str, dict[str, str]] = {
    "classify": {"accuracy": "higher", "recall": "higher", "ece": "lower"},
    "model": {"text_to_image": "higher", "image_to_text": "higher", "accuracy": "higher"},
}


@dataclass(frozen=True)
class Result:
    """One method on one exam.

    Args:
        method: its slug.
        setting: of the exam.
        at: its place on the axis.
        seed: of the exam.
        measures: by name; empty where the method failed.
        cpu: seconds of processor time.
        wall: seconds.
        memory: bytes by which the answer raised the peak of the method's process; NaN where unknown.
        error: why it failed, or empty.
        facts: of the exam.
    """

    method: str
    setting: str
    at: float
    seed: int
    measures: Mapping[str, float] = field(default_factory=dict)
    cpu: float = float("nan")
    wall: float = float("nan")
    memory: float = float("nan")
    error: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


def rooms() -> list[str]:
    """The rooms that hold a trial."""
    root = Path(str(resources.files("binderclip")))
    return sorted(path.parent.name for path in root.glob("*/trial.py"))


def trial_of(room: str) -> Any:
    """A room's module ``trial`` (see :mod:`binderclip.data.exams`).

    Raises:
        InputError: the room has none.
    """
    if room not in rooms():
        raise InputError(f"there is no bench of {room!r}: rooms with one are {', '.join(rooms())}")
    return importlib.import_module(f"binderclip.{room}.trial")


def contestants(room: str, methods: Sequence[str] = ()) -> list[Card]:
    """The cards that a room's trial compares: those named, or all of its kind, baselines first.

    Raises:
        InputError: one is of another kind.
        UnknownNameError: there is none of that name.
    """
    kind = trial_of(room).KIND
    if not methods:
        takes = getattr(trial_of(room), "takes", lambda card: True)
        found = [card for card in cards().values() if card.kind == kind and takes(card)]
        return sorted(found, key=lambda card: (not card.baseline, card.slug))
    chosen = [find(name) for name in dict.fromkeys(methods)]
    for card in chosen:
        if card.kind != kind:
            raise InputError(f"{card.slug} is a {card.kind}: bench {room} compares what is a {kind}")
    return chosen


def bench(
    room: str,
    exams: Sequence[Exam],
    methods: Sequence[Card],
    *,
    folder: Path | None = None,
    listener: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Put the exams to each method, each in a process of its own, and judge the answers here.

    Args:
        room: whose trial it is.
        exams: of that trial.
        methods: to compare.
        folder: where results are kept; one that is there is taken while method, exam and code are the same.
        listener: told each result.

    Raises:
        InputError: the room has no trial, or the folder cannot be written.
    """
    trial, out = trial_of(room), []
    for card in methods:
        known = {i: found for i, exam in enumerate(exams) if (found := _kept(folder, card, exam)) is not None}
        todo = [exam for i, exam in enumerate(exams) if i not in known]
        answers = ask(trial.__name__, card.slug, todo) if todo else iter(())
        for i, exam in enumerate(exams):
            result = known.get(i) or judged(card, exam, next(answers, None), trial.TASK)
            if folder is not None and i not in known and not result.error:
                _keep(folder, card, exam, result)
            listener(result)
            out.append(result)
    return out


def judged(card: Card, exam: Exam, answer: Answer | None, task: str) -> Result:
    """An answer held against the key."""
    answer = answer or Answer(error="its process had ended")
    result = Result(card.slug, exam.setting, exam.at, exam.seed, {}, answer.cpu, answer.wall, answer.memory)
    facts: dict[str, Any] = {"facts": {**exam.facts, "notes": list(answer.notes)}}
    if answer.error:
        return Result(**asdict(result) | facts | {"error": answer.error})
    try:
        measures = _classes(answer.value, exam.key) if task == "classify" else _model(answer.value, exam.key)
    except (InputError, TypeError, ValueError) as error:
        return Result(**asdict(result) | facts | {"error": f"its answer is none: {error}"})
    return Result(**asdict(result) | facts | {"measures": measures})


def _classes(scores: Any, y: Any) -> dict[str, float]:
    """Class probabilities ``[N, C]`` against labels ``[N]``; a tie is not right."""
    found = np.asarray(scores, np.float64)
    if found.ndim != 2 or len(found) != len(y) or not np.isfinite(found).all():
        raise InputError(f"scores have shape {found.shape} for {len(y)} questions, or are not finite")
    right, predicted = true_ranks(found, y) < 1, found.argmax(axis=1)
    return {
        "accuracy": float(right.mean()),
        "recall": float(mean_per_class_recall(y, predicted, found.shape[1])),
        "ece": float(ece(found.max(axis=1), right)),
    }


def _model(folder: Any, source: Any) -> dict[str, float]:
    """A saved model on held-out pairs: retrieval at 1 by captions, zero-shot accuracy by labels."""
    from binderclip.engine import Encoder
    from binderclip.evaluate.data import Sets
    from binderclip.evaluate.probes import load
    from binderclip.evaluate.reading import open_dataset
    from binderclip.evaluate.vectors import Vectors

    vectors, sets = Vectors(Encoder(str(folder))), Sets(open_dataset(str(source)))
    found: dict[str, float] = {}
    if any(item.captions for item in sets.test.items):
        report = load("retrieval").run(vectors, sets)
        found = {name: report[f"{name}_recall@1"] for name in ("text_to_image", "image_to_text")}
    if sets.test.named:
        found["accuracy"] = load("zero-shot").run(vectors, sets)["acc1"]
    place = Path(folder).parent
    if place.parent == Path(tempfile.gettempdir()) and place.name.startswith("binderclip-bench-"):
        shutil.rmtree(place, ignore_errors=True)  # what the method's process made
    return found


def _path(folder: Path, card: Card, exam: Exam) -> Path:
    facts = [card.slug, _code(card), exam.setting, exam.seed, digest_of(exam.given), digest_of(exam.key)]
    return folder / "results" / f"{card.slug}-{digest_of(facts)}.json"


def _kept(folder: Path | None, card: Card, exam: Exam) -> Result | None:
    if folder is None:
        return None
    try:
        row: dict[str, Any] = json.loads(_path(folder, card, exam).read_text("utf-8"))
        return Result(**row | {key: math.nan for key, value in row.items() if value is None})
    except (OSError, ValueError, TypeError):
        return None  # not there, or damaged: made again


def _keep(folder: Path, card: Card, exam: Exam, result: Result) -> None:
    path = _path(folder, card, exam)
    row = {key: None if isinstance(v, float) and math.isnan(v) else v for key, v in asdict(result).items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps(row, ensure_ascii=False, indent=1) + "\n").encode("utf-8", "replace"))
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}): choose another folder") from None


def _code(card: Card) -> str:
    """Changes whenever a file of the method's room does, or the package that brings the method."""
    total = hashlib.sha256(card.module.encode())
    if card.source != "binderclip":
        total.update(metadata.version(card.source).encode())
    for path in sorted(Path(str(resources.files(f"binderclip.{card.room}"))).rglob("*.py")):
        total.update(path.read_bytes())
    return total.hexdigest()[:12]
