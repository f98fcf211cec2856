"""What a scene holds, before anything is drawn: objects with attributes, places and order, the ground, a word, a defect."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from binderclip.data.hashing import Draws
from binderclip.data.scenes.spec import GROUNDS, SIZES, WORDS, SceneSpec

__all__ = ["RELATIONS", "Layout", "Thing", "Word", "holds_between", "lay_out"]

#: Relations in the plane, and in depth.
RELATIONS = ("left of", "right of", "above", "below", "in front of", "behind")
OPPOSITE = {"left of": "right of", "above": "below", "in front of": "behind"}
OPPOSITE |= {b: a for a, b in OPPOSITE.items()}
_CLEAR = 0.12  # of the side: what is less apart is neither left nor right
_DEFECTS = ("scratch", "stain", "hole", "speckle")


@dataclass(frozen=True)
class Thing:
    """An object.

    Args:
        shape: its name.
        colour: its name.
        size: its name.
        x: of its centre, as a share of the side.
        y: of its centre, as a share of the side.
        r: radius, as a share of the side.
        angle: tilt in radians, to the right.
        tint: how much lighter (over 0) or darker it is than its colour, in 0..255.
    """

    shape: str
    colour: str
    size: str
    x: float
    y: float
    r: float
    angle: float = 0.0
    tint: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def kind(self) -> tuple[str, str]:
        """(colour, shape)."""
        return self.colour, self.shape

    @property
    def phrase(self) -> str:
        """As in "small red circle"."""
        return f"{self.size} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Word:
    """A written word: its text, its upper left corner and its height as shares of the side."""

    text: str
    x: float
    y: float
    height: float


@dataclass(frozen=True)
class Layout:
    """A scene without pixels.

    Args:
        things: from the back to the front.
        ground: name of its colour.
        texture: how the ground is painted.
        word: or None.
        defect: kind of the defect, or nothing.
        key: names the draws of texture and defect.
    """

    things: tuple[Thing, ...]
    ground: str = "grey"
    texture: str = "plain"
    word: Word | None = None
    defect: str = ""
    key: str = ""

    def count(self, colour: str | None = None, shape: str | None = None, size: str | None = None) -> int:
        """How many things are so; None is any."""
        return sum(
            (colour is None or thing.colour == colour)
            and (shape is None or thing.shape == shape)
            and (size is None or thing.size == size)
            for thing in self.things
        )


def holds_between(a: Thing, relation: str, b: Thing, layout: Layout) -> bool:
    """Whether "a RELATION b" is true; in depth only of two that touch."""
    if relation in ("in front of", "behind"):
        touch = math.hypot(a.x - b.x, a.y - b.y) < 0.9 * (a.r + b.r)
        in_front = layout.things.index(a) > layout.things.index(b)
        return touch and in_front == (relation == "in front of")
    dx, dy = b.x - a.x, b.y - a.y
    return {"left of": dx, "right of": -dx, "above": dy, "below": -dy}[relation] > _CLEAR


def lay_out(spec: SceneSpec, number: int) -> Layout:
    """Scene `number` of a family, by draws that are named: each is a function of (seed, split, number, its name)."""
    draws = Draws(spec.seed, f"scene/{spec.split}/{number}")
    count = draws.integer("count", *spec.objects)
    known = spec.kinds(held_out=False)
    first = draws.choice("first kind", spec.kinds(held_out=True)) if spec.split == "held-out" else None
    alike = draws.unit("alike") < spec.alike
    kinds = [draws.choice(f"kind {i}", known or spec.kinds(held_out=True)) for i in range(count)]
    if first is not None:
        kinds[0] = first
    if alike:
        kinds = [kinds[0]] * count
    things: list[Thing] = []
    for i, (colour, shape) in enumerate(kinds):
        things.append(_place(draws.at(f"thing {i}"), colour, shape, tuple(things), spec))
    order = draws.shuffled("order", things)
    word = None
    if draws.unit("word?") < spec.words:
        word = Word(
            draws.choice("word", WORDS), draws.between("word x", 0.02, 0.3), draws.between("word y", 0.02, 0.75), 0.2
        )
    return Layout(
        things=tuple(order),
        ground=draws.choice("ground", list(GROUNDS)),
        texture=draws.choice("texture", spec.textures),
        word=word,
        defect=draws.choice("defect", _DEFECTS) if draws.unit("defect?") < spec.defects else "",
        key=f"{spec.seed}/{draws.key}",
    )


def _place(draws: Draws, colour: str, shape: str, others: tuple[Thing, ...], spec: SceneSpec) -> Thing:
    """A thing where there is room: the drawn size if it fits anywhere, else the next smaller one that does."""
    wanted = draws.choice("size", spec.sizes)
    smaller = [name for name in reversed(SIZES) if name in spec.sizes and SIZES[name] <= SIZES[wanted]]
    spots = [(float(u), float(v)) for u, v in draws.array("spots", 24, 2)]
    # When no drawn spot is free, a grid is tried: it finds the widest gap.
    grid = [(i / 15, j / 15) for i in range(16) for j in range(16)]
    best: tuple[float, Thing] | None = None
    for size in smaller:
        r = SIZES[size] * draws.between("scale", 0.92, 1.08)
        tint = (draws.between("r", -18, 18), draws.between("g", -18, 18), draws.between("b", -18, 18))
        plain = Thing(shape, colour, size, 0.5, 0.5, r, draws.between("angle", -0.26, 0.26), tint)
        for trial in (spots, grid):
            for u, v in trial:
                thing = replace(plain, x=r + u * (1 - 2 * r), y=r + v * (1 - 2 * r))
                room = _room(thing, others, spec.overlap)
                if room >= 0:
                    return thing
                if best is None or room > best[0]:
                    best = room, thing
    assert best is not None
    return best[1]


def _room(thing: Thing, others: tuple[Thing, ...], overlap: float) -> float:
    """Distance to the nearest thing beyond what must be kept, below 0 when too near."""
    gaps = (math.hypot(thing.x - o.x, thing.y - o.y) - (1 - overlap) * (thing.r + o.r) for o in others)
    return min(gaps, default=1.0)
