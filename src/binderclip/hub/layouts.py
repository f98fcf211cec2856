"""Renaming the keys of published checkpoints, by declarative tables that can be read in both directions.

A ``Rule`` pairs a key of theirs with a key of ours; ``{i}`` and ``{j}`` stand for numbers. Several keys on one side
are joined along the first axis (Hugging Face keeps q, k and v apart). A transform says how the shape differs. Every
key must be named by exactly one rule or be ignored by name: nothing is dropped silently, and going there and back is
the identity to the bit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from binderclip.errors import CheckpointError

__all__ = ["Layout", "Rule", "from_layout", "to_layout"]

_Pair = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]

# name -> (theirs to ours, ours to theirs)
TRANSFORMS: dict[str, _Pair] = {
    "same": (lambda t: t, lambda t: t),
    "transpose": (lambda t: t.T, lambda t: t.T),
    "vector": (lambda t: t.reshape(-1), lambda t: t.reshape(1, 1, -1)),  # [1, 1, C] <-> [C]
    "scalar": (lambda t: t.reshape(()), lambda t: t.reshape(1)),  # [1] <-> []
    "table": (lambda t: t[0], lambda t: t[None]),  # [1, S, C] <-> [S, C]
}


@dataclass(frozen=True)
class Rule:
    """One renaming.

    Attributes:
        theirs: key or keys in the published layout, with ``{i}`` and ``{j}`` for numbers.
        ours: key or keys of the CLIP.
        via: a key of ``TRANSFORMS``.
        parts: sizes of the pieces where one side has several keys, e.g. (1, 2) for q and kv.
    """

    theirs: str | tuple[str, ...]
    ours: str | tuple[str, ...]
    via: str = "same"
    parts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layout:
    """A published way to name a CLIP's tensors.

    Attributes:
        name: as messages give it.
        rules: in the order they are tried.
        ignored: patterns of keys that hold no weights.
    """

    name: str
    rules: tuple[Rule, ...]
    ignored: tuple[str, ...] = field(default=())


def from_layout(state: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Theirs to ours.

    Raises:
        CheckpointError: a key that no rule names, or one of several keys that belong together is missing.
    """
    kept = {k: v for k, v in state.items() if not any(re.fullmatch(p, k) for p in layout.ignored)}
    sides = [(_tuple(r.theirs), _tuple(r.ours), TRANSFORMS[r.via][0], r.parts) for r in layout.rules]
    return _rename(kept, sides, f"the {layout.name} layout")


def to_layout(state: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Ours to theirs: the exact opposite of ``from_layout``."""
    sides = [(_tuple(r.ours), _tuple(r.theirs), TRANSFORMS[r.via][1], r.parts) for r in layout.rules]
    return _rename(state, sides, f"a CLIP that can be written in the {layout.name} layout")


_Side = tuple[tuple[str, ...], tuple[str, ...], Callable[[Tensor], Tensor], tuple[int, ...]]


def _rename(state: Mapping[str, Tensor], sides: Sequence[_Side], what: str) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    left = dict(state)
    for sources, targets, change, parts in sides:
        pattern = _pattern(sources[0])
        for key in [k for k in left if pattern.fullmatch(k)]:
            match = pattern.fullmatch(key)
            assert match is not None
            numbers = match.groupdict()
            names = [source.format(**numbers) for source in sources]
            missing = [name for name in names if name not in left]
            if missing:
                raise CheckpointError(f"{missing[0]} is missing beside {key}: the file is not whole; fetch it again")
            whole = [change(left.pop(name)) for name in names]
            pieces = _fit([t.format(**numbers) for t in targets], whole, parts)
            out.update(pieces)
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise CheckpointError(f"{next(iter(left))}{more} is not a key of {what}: check where the file comes from")
    return out


def _fit(names: Sequence[str], tensors: Sequence[Tensor], parts: tuple[int, ...]) -> dict[str, Tensor]:
    """One to one, several to one (joined), or one to several (cut) along the first axis."""
    if len(names) == len(tensors):
        return dict(zip(names, tensors, strict=True))
    if len(names) == 1:
        return {names[0]: torch.cat(list(tensors))}
    whole = tensors[0]
    shares = parts or (1,) * len(names)
    unit = whole.shape[0] // sum(shares)
    return dict(zip(names, torch.split(whole, [unit * share for share in shares]), strict=True))


def _pattern(template: str) -> re.Pattern[str]:
    escaped = re.escape(template)
    for letter in "ij":
        escaped = escaped.replace(re.escape("{" + letter + "}"), rf"(?P<{letter}>\d+)")
    return re.compile(escaped)


def _tuple(keys: str | tuple[str, ...]) -> tuple[str, ...]:
    return (keys,) if isinstance(keys, str) else keys


def both(theirs: str, ours: str, ends: Iterable[str] = ("weight", "bias")) -> tuple[Rule, ...]:
    """The same renaming for a weight and its bias."""
    return tuple(Rule(f"{theirs}.{end}", f"{ours}.{end}") for end in ends)
