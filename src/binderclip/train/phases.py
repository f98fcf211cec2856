"""Phases of a run: what each reads, how long it is, and the learning rate at every step. Without torch.

CLIPA and CLIPA-v2 (Li et al. 2023, arXiv 2305.07017 and 2306.15658) train mostly on few tokens and then briefly on many;
freezing for a while, or another image size at the end, are phases too.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from binderclip.errors import InputError

__all__ = ["Phase", "Plan", "Span", "factor", "plan"]

SHAPES = ("cosine", "linear", "constant", "rsqrt")
_IMAGE_HOWS = ("random", "grid", "block", "attentive")
_WORDS = {
    "int": "give a whole number",
    "float": "give a number",
    "bool": "write true or false",
    "str": "give a word",
    "tuple[str, ...]": "give a list of patterns",
}
_TEXT_HOWS = ("truncate", "random", "block", "syntax")


def factor(
    step: int, steps: int, *, warmup: int = 0, shape: str = "cosine", final: float = 0.0, start: float = 0.0
) -> float:
    """Share of the learning rate that holds at a step.

    Warm-up: ``start + (1 - start) (step + 1) / warmup``, so that no step has the rate ``start`` itself and the last has
    all of it. Then, with ``e = step - warmup`` and ``t = e / (steps - warmup)`` (1 from ``steps`` on):

    - cosine: ``final + (1 - final) (1 + cos(pi t)) / 2`` (Loshchilov & Hutter 2017, arXiv 1608.03983)
    - linear: ``final + (1 - final) (1 - t)``
    - constant: 1
    - rsqrt: ``max(final, sqrt(w / (w + e)))`` with ``w = max(warmup, 1)``

    Args:
        step: from 0.
        steps: of the whole run or phase.
        warmup: steps of linear growth.
        shape: of the way down.
        final: share at the end.
        start: share from which the warm-up grows.

    Raises:
        InputError: an unknown shape.
    """
    if shape not in SHAPES:
        raise InputError(f"unknown learning rate shape {shape!r}: use one of {', '.join(SHAPES)}")
    if step < warmup:
        return start + (1 - start) * (step + 1) / warmup
    behind = step - warmup
    if shape == "constant":
        return 1.0
    if shape == "rsqrt":
        w = max(warmup, 1)
        return max(final, math.sqrt(w / (w + behind)))
    t = min(behind / max(steps - warmup, 1), 1.0)
    down = (1 + math.cos(math.pi * t)) / 2 if shape == "cosine" else 1 - t
    return final + (1 - final) * down


@dataclass(frozen=True)
class Phase:
    """One stretch of a run. What is None is as in the recipe.

    Args:
        steps: how long it is; or
        samples: how long it is in image-text pairs, rounded up to whole batches. ``plan`` wants one of them.
        image_size: side in pixels.
        image_keep: share of the patch tokens that are kept in training.
        image_how: which are kept: random, grid, block or attentive.
        text_length: text tokens.
        text_how: how longer texts are cut: truncate, random, block or syntax.
        lr: learning rate; or
        lr_per_256: learning rate per 256 samples: ``lr = lr_per_256 * batch / 256``.
        warmup: steps of linear growth; or
        warmup_samples: the same in samples.
        shape: of the learning rate after the warm-up, see ``factor``.
        final: share of the learning rate at the phase's end.
        freeze: patterns of parameter names that stop learning when it begins.
        unfreeze: patterns of those that learn again, after ``freeze``.
        reset_optimizer: begin with an optimiser that remembers nothing.
        batch_size: samples a step, over all processes.

    Raises:
        InputError: a value that cannot be, or two ways of saying one thing.
    """

    steps: int | None = None
    samples: int | None = None
    image_size: int | None = None
    image_keep: float = 1.0
    image_how: str = "random"
    text_length: int | None = None
    text_how: str = "truncate"
    lr: float | None = None
    lr_per_256: float | None = None
    warmup: int = 0
    warmup_samples: int | None = None
    shape: str = "cosine"
    final: float = 0.0
    freeze: tuple[str, ...] = ()
    unfreeze: tuple[str, ...] = ()
    reset_optimizer: bool = False
    batch_size: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            kind, value = str(field.type), getattr(self, field.name)
            try:
                object.__setattr__(self, field.name, _convert(value, kind))
            except (TypeError, ValueError, OverflowError):
                raise InputError(f"{field.name} of a phase is {value!r}: {_WORDS[kind.split(' |')[0]]}") from None
        _check(self)


def _check(phase: Phase) -> None:
    for one, other in (("steps", "samples"), ("lr", "lr_per_256"), ("warmup", "warmup_samples")):
        if getattr(phase, one) and getattr(phase, other) is not None:
            raise InputError(f"a phase states {one!r} or {other!r}, not both")
    for name in ("steps", "samples", "image_size", "text_length", "lr", "lr_per_256", "batch_size"):
        value = getattr(phase, name)
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"{name} of a phase is {value}: give a number above 0")
    if not 0 < phase.image_keep <= 1:
        raise InputError(f"image_keep of a phase is {phase.image_keep}: give a share above 0, up to 1")
    if phase.warmup < 0 or (phase.warmup_samples or 0) < 0 or not 0 <= phase.final <= 1:
        raise InputError("warmup of a phase is 0 or more, and final a share from 0 to 1")
    for name, known in (("shape", SHAPES), ("image_how", _IMAGE_HOWS), ("text_how", _TEXT_HOWS)):
        if getattr(phase, name) not in known:
            raise InputError(f"{name} of a phase is {getattr(phase, name)!r}: use one of {', '.join(known)}")


def _convert(value: Any, kind: str) -> Any:
    """A recipe's value as the field's kind: whole numbers may come as 12.8e9, one pattern as a word."""
    if value is None and "None" in kind:
        return None
    if kind.startswith("tuple"):
        return (value,) if isinstance(value, str) else tuple(str(v) for v in value)
    if kind in ("bool", "str") or isinstance(value, bool):
        if type(value).__name__ != kind:
            raise TypeError
        return value
    number = float(value)
    if kind.startswith("float"):
        return number
    if number != int(number):
        raise ValueError
    return int(number)


@dataclass(frozen=True)
class Span:
    """A phase with what it inherits filled in: steps ``start <= step < stop`` of the run."""

    phase: Phase
    start: int
    stop: int
    batch_size: int
    lr: float
    warmup: int

    @property
    def steps(self) -> int:
        """How many."""
        return self.stop - self.start

    @property
    def samples(self) -> int:
        """Image-text pairs read, ``steps * batch_size``."""
        return self.steps * self.batch_size


@dataclass(frozen=True)
class Plan:
    """The spans of a run, in order."""

    spans: tuple[Span, ...]

    @cached_property
    def _starts(self) -> list[int]:
        return [span.start for span in self.spans]

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.spans[-1].stop

    @property
    def samples(self) -> int:
        """Of the whole run."""
        return sum(span.samples for span in self.spans)

    @property
    def lr(self) -> float:
        """Of the first phase: what an optimiser is made with, and ``factor`` a share of."""
        return self.spans[0].lr

    def at(self, step: int) -> tuple[int, int]:
        """Number of the phase that a step is in, and the step's number in it, both from 0.

        ``step == steps`` is where a finished run stands: behind the last step of the last phase.

        Raises:
            InputError: a step that the run does not have.
        """
        if not 0 <= step <= self.steps:
            raise InputError(f"step {step} is not in a run of {self.steps} steps")
        index = bisect_right(self._starts, step) - 1
        return index, step - self.spans[index].start

    def factor(self, step: int) -> float:
        """Learning rate at a step as a share of ``lr``: give it to ``set_rate``."""
        index, inside = self.at(step)
        span = self.spans[index]
        share = factor(inside, span.steps, warmup=span.warmup, shape=span.phase.shape, final=span.phase.final)
        return share if span.lr == self.lr else share * span.lr / self.lr


def plan(
    phases: Sequence[Phase], *, batch_size: int | None = None, lr: float | None = None, lr_per_256: float | None = None
) -> Plan:
    """Lay phases one behind the other.

    Args:
        phases: at least one.
        batch_size: of phases that state none, over all processes.
        lr: of phases that state none; or
        lr_per_256: the same per 256 samples.

    Raises:
        InputError: a phase without length, batch size or learning rate.
    """
    if not phases:
        raise InputError("a run has at least one phase")
    if lr is not None and lr_per_256 is not None:
        raise InputError("give 'lr' or 'lr_per_256', not both")
    spans: list[Span] = []
    for number, phase in enumerate(phases, 1):
        if phase.steps is None and phase.samples is None:
            raise InputError(f"phase {number} has no length: state 'steps' or 'samples'")
        batch = phase.batch_size or batch_size
        if not batch or batch < 1:
            raise InputError(f"phase {number} has no batch size: state 'batch_size'")
        own = phase.lr is not None or phase.lr_per_256 is not None
        rate, per_256 = (phase.lr, phase.lr_per_256) if own else (lr, lr_per_256)
        if rate is None and per_256 is None:
            raise InputError(f"phase {number} has no learning rate: state 'lr' or 'lr_per_256'")
        steps = phase.steps if phase.steps is not None else -(-(phase.samples or 0) // batch)
        warm = phase.warmup if phase.warmup_samples is None else -(-phase.warmup_samples // batch)
        start = spans[-1].stop if spans else 0
        value = rate if rate is not None else (per_256 or 0.0) * batch / 256
        spans.append(Span(phase, start, start + steps, batch, value, warm))
    return Plan(tuple(spans))
