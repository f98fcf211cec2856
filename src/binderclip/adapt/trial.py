"""Few-shot classification on equal terms, for `binderclip bench adapt`: same shots, validation and held-out pictures.

A fifth of the pictures, by the hash of their ids, is judged by, whatever the seed; of the others each seed draws its shots
and min(shots, 4) a class to choose hyperparameters on. Every picture is encoded once, for all methods, settings and seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binderclip.adapt.encoding import encode_readable
from binderclip.adapt.splits import few_shot, split
from binderclip.cards import Card, load_method
from binderclip.data.exams import Exam
from binderclip.data.pairs import Pairs
from binderclip.errors import InputError

__all__ = ["AXIS", "KIND", "SETTINGS", "TASK", "answer", "open_trial", "takes"]

KIND, AXIS, TASK = "Adapter", "shots a class", "classify"
SETTINGS = (1.0, 2.0, 4.0, 8.0, 16.0)
SOURCE = "scenes:2400?size=96&label=kind"  # where the user names none


def open_trial(
    source: str,
    *,
    model: str = "pocket",
    seeds: Sequence[int] = (0, 1, 2),
    settings: Sequence[float] = SETTINGS,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Exam]:
    """An exam for each number of shots and each seed.

    Args:
        source: labelled pictures in any form that `Pairs` opens.
        model: an embedded model's name, or a checkpoint.
        seeds: of the shots.
        settings: shots a class; those that no class has enough pictures for are left out.
        on_progress: told (done, total) of pictures.

    Raises:
        InputError: fewer than two classes, or no picture to judge by.
    """
    pairs = Pairs.open(source)
    rows = [row for row in pairs if row.image is not None and row.label is not None]
    names = [pairs.label_name(row.label) if pairs.classes else str(row.label) for row in rows]  # type: ignore[arg-type]
    classes = sorted(set(names))
    if len(classes) < 2:
        raise InputError(f"{source} has pictures of {len(classes)} classes: bench adapt needs at least two")
    encoder = _encoder(model)
    parts, kept = [], []
    for start in range(0, len(rows), 256):
        part = rows[start : start + 256]
        found, good, _ = encode_readable(encoder, [row.image for row in part], [row.id for row in part])
        parts += [found] if good else []
        kept += [start + i for i in good]
        on_progress(start + len(part), len(rows))
    if not kept:
        raise InputError(f"no picture of {source} can be read")
    vectors, ids = np.concatenate(parts), [rows[i].id for i in kept]
    y = np.array([classes.index(names[i]) for i in kept])
    learn, aside, test = split(ids, y.tolist(), seed=0)
    if not len(test):
        raise InputError(f"{source} has too few pictures to hold any out: give at least ten a class")
    pool = np.sort(np.concatenate([learn, aside]))
    most = int(np.bincount(y[pool]).max())
    common = {"model": model, "classes": classes, "questions": vectors[test]}
    out = []
    for shots in [int(s) for s in settings if s <= most] or [1]:
        for seed in seeds:
            a, b = (pool[part] for part in few_shot([ids[i] for i in pool], y[pool], shots, seed))
            given = {**common, "seed": seed, "X": vectors[a], "y": y[a], "X_val": vectors[b], "y_val": y[b]}
            facts = {"learnt from": len(a), "judged by": len(test), "classes": len(classes)}
            out.append(Exam(f"{shots} shot{'s' * (shots > 1)}", float(shots), seed, given, y[test], facts))
    return out


def takes(card: Card) -> bool:
    """Whether a method works on cached vectors: one that needs pixels would encode every picture anew for each exam."""
    return "embeddings" in card.needs


def answer(slug: str, given: Mapping[str, Any]) -> NDArray[np.float32]:
    """Probabilities ``[N, C]`` of the questions by a method that has learnt from the shots."""
    made = load_method(slug)(_encoder(given["model"]), given["classes"], seed=given["seed"])
    aside = {"X_val": given["X_val"], "y_val": given["y_val"]} if len(given["y_val"]) else {}
    made.fit(given["X"], given["y"], **aside)
    found: NDArray[np.float32] = made.predict_proba(given["questions"])
    return found


@lru_cache(maxsize=1)
def _encoder(model: str) -> Any:
    from binderclip.engine import Encoder

    return Encoder(model)
