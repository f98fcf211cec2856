"""Objectives at equal compute, for `binderclip bench train`: same towers, pairs, batch and seconds of processor time.

Each objective runs its small recipe on the common ground for as many steps as fit into the seconds, measured over its own
first steps; the phases of a recipe keep their shares. The pairs that are judged by are never opened by its process.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from binderclip.cards import Card
from binderclip.data.exams import Exam
from binderclip.data.pairs import Pair, Pairs, RowPairs
from binderclip.errors import InputError
from binderclip.train.assemble import assemble
from binderclip.train.loop import Run
from binderclip.train.machine import Machine
from binderclip.train.recipe import Recipe, read_recipe, shipped_recipes

__all__ = ["AXIS", "KIND", "SETTINGS", "TASK", "answer", "open_trial", "run", "takes"]

KIND, AXIS, TASK = "Objective", "CPU seconds", "model"
SETTINGS = (30.0,)
SOURCE = "scenes:4096?size=32&captions=5"  # where the user names none
BATCH, WARM = 64, 6


def open_trial(
    source: str,
    *,
    model: str = "nano4",
    seeds: Sequence[int] = (0, 1, 2),
    settings: Sequence[float] = SETTINGS,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Exam]:
    """An exam for each number of seconds and each seed.

    Args:
        source: pairs to train on; generated scenes (``scenes:N?...``), whose test half is judged by.
        model: preset of the towers.
        seeds: of the weights and the batches.
        settings: seconds of processor time a run.
        on_progress: not told anything: nothing is encoded beforehand.

    Raises:
        InputError: the source is none of generated scenes.
    """
    if not source.startswith("scenes:"):
        raise InputError("bench train runs on generated scenes: give --data scenes:4096?size=32, or leave it out")
    query = "&".join(part for part in source.partition("?")[2].split("&") if part and not part.startswith("split="))
    held = f"scenes:512?{query}&split=test&label=kind"
    return [
        Exam(
            f"{seconds:g} s",
            float(seconds),
            seed,
            {"source": source, "model": model, "seed": seed, "seconds": seconds},
            held,
            {"source": source, "judged by": held},
        )
        for seconds in settings
        for seed in seeds
    ]


def takes(card: Card) -> bool:
    """Whether an objective brings a small recipe."""
    return f"{card.slug.replace('_', '-')}-nano" in shipped_recipes()


def answer(slug: str, given: Mapping[str, Any]) -> str:
    """Train; the folder of the model, in the temporary folder."""
    import torch

    torch.set_num_threads(1)
    name = f"{slug.replace('_', '-')}-nano"
    ground = {key: given[key] for key in ("source", "model", "seed")}
    steps = max(int(given["seconds"] / cost(recipe(name, WARM, **ground), given["source"])), 2)
    folder = Path(tempfile.mkdtemp(prefix="binderclip-bench-"))
    run(recipe(name, steps, **ground), given["source"], folder)
    return str(folder / "model")


def recipe(name: str, steps: int, *, source: str, model: str, seed: int) -> Recipe:
    """A small recipe on the common ground, its phases stretched to a number of steps."""
    found = read_recipe(name)
    total = sum(phase.steps or 0 for phase in found.phases)
    phases = tuple(
        replace(
            phase, steps=max(round((phase.steps or 0) * steps / total), 1), warmup=round(phase.warmup * steps / total)
        )
        for phase in found.phases
    )
    towers = found.model.get("towers", {}) if isinstance(found.model, dict) else {}
    image = {k: v for k, v in towers.get("image", {}).items() if k != "width"}
    return replace(
        found,
        model={"preset": model, **({"towers": {"image": image}} if image else {})},
        data={"pairs": source, "batch_size": BATCH, "caption": "first", "threads": 0}
        | {k: found.data[k] for k in ("augment", "cycle") if k in found.data},
        phases=phases,
        validate={},
        retained={},
        checkpoint={"every": 10**9},
        seed=seed,
    )


class Kept(RowPairs):
    """Rows in memory: what drawing scenes costs is no objective's matter."""

    def __init__(self, pairs: list[Pair]) -> None:
        super().__init__("scenes")
        self.pairs = pairs

    @property
    def rows(self) -> int:
        """How many."""
        return len(self.pairs)

    def row(self, number: int) -> Pair:
        """One of them."""
        return self.pairs[number]


@cache
def kept(source: str) -> Kept:
    """The rows of a source, drawn once in a process."""
    return Kept(list(Pairs.open(source)))


def cost(made: Recipe, source: str) -> float:
    """CPU seconds of a step, reading included, after two that do not count."""
    stamps: list[float] = []
    listener = lambda r: stamps.append(time.process_time()) if r["event"] == "step" else None  # noqa: E731
    with tempfile.TemporaryDirectory() as place:
        run(made, source, Path(place), listener)
    return (stamps[-1] - stamps[1]) / (len(stamps) - 2)


def run(
    made: Recipe, source: str, folder: Path, listener: Callable[[Mapping[str, Any]], None] = lambda record: None
) -> None:
    """Train on the CPU, on rows in memory."""
    job = assemble(made)
    job.pairs = kept(source)
    Run(job, folder, machine=Machine(cpu=True), listener=listener).train()
