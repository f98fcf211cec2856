"""Captions of a scene, all true, and foils: captions a little beside the truth, with the scene of which they are true."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from binderclip.data.hashing import Draws
from binderclip.data.scenes.layout import RELATIONS, Layout, Thing, holds_between
from binderclip.data.scenes.spec import COLOURS, SceneSpec
from binderclip.data.scenes.statements import All, Count, Exists, Ground, Noun, Relation, Says, Statement, group

__all__ = ["FRAMES", "Caption", "Foil", "captions", "foils"]

#: Wordings around a statement.
FRAMES = ("{}", "a picture of {}", "an image with {}", "{} in a picture")
_NAMES = "swap colour,swap shape,swap relation,replace colour,replace shape,change count".split(",")


@dataclass(frozen=True)
class Caption:
    """A text and what it states."""

    text: str
    statement: Statement


@dataclass(frozen=True)
class Foil:
    """A false caption beside its true one.

    Args:
        kind: "swap colour", "swap shape", "swap relation", "replace colour", "replace shape" or "change count".
        true: holds of the scene.
        false: does not, and differs from `true` in one thing.
        layout: the scene changed in that one thing: `false` holds of it, and `true` does not.
    """

    kind: str
    true: Statement
    false: Statement
    layout: Layout


def captions(layout: Layout, draws: Draws, count: int) -> list[Caption]:
    """True captions, the first of which says how many there are of each kind; fewer when there is less to say."""
    main = group(layout)
    others = draws.shuffled("statements", list(_statements(layout)))
    found = [Caption(main.text, main)]
    texts = {main.text}
    # Once through the other statements, then the same in other words.
    for turn in range(1, len(FRAMES) + 1):
        for number, statement in enumerate([main, *others]):
            if len(found) == count:
                return found
            frame = FRAMES[(draws.integer(f"frame {number}", 0, len(FRAMES) - 1) + turn) % len(FRAMES)]
            text = frame.format(statement.text)
            if text not in texts and (number or turn > 1):
                texts.add(text)
                found.append(Caption(text, statement))
    return found


def foils(layout: Layout, draws: Draws, spec: SceneSpec) -> list[Foil]:
    """One foil of each kind that the scene allows. None names or shows a combination that the split leaves out.

    Each is checked: `true` holds here and not there, `false` there and not here.
    """
    found = []
    for kind in _NAMES:
        options = draws.shuffled(kind, list(_foils_of(kind, layout, spec)))
        good = (foil for foil in options if _is_foil(foil, layout) and _allowed(foil.layout, spec))
        first = next(good, None)
        if first is not None:
            found.append(first)
    return found


def _statements(layout: Layout) -> Iterator[Statement]:
    """What else may be said, beside how many there are of each kind."""
    for thing in layout.things:
        yield Exists(Noun.of(thing, size=True))
    for a, b in itertools.permutations(layout.things, 2):
        for relation in RELATIONS:
            if a.kind != b.kind and holds_between(a, relation, b, layout):
                yield Relation(Noun.of(a), relation, Noun.of(b))
    for shape in sorted({thing.shape for thing in layout.things}):
        yield Count(Noun(shape), layout.count(shape=shape))
    for colour in sorted({thing.colour for thing in layout.things}):
        yield Count(Noun(colour=colour), layout.count(colour))
    yield All((*group(layout, 2).parts, Ground(layout.ground, layout.texture)))
    if layout.word is not None:
        yield All((*group(layout, 2).parts, Says(layout.word.text)))


def _foils_of(kind: str, layout: Layout, spec: SceneSpec) -> Iterator[Foil]:
    if kind.startswith("swap"):
        yield from _swaps(kind, layout)
    elif kind == "change count":
        for thing in layout.things:
            noun, number = Noun.of(thing), layout.count(*thing.kind)
            if number > 1:
                fewer = replace(layout, things=tuple(t for t in layout.things if t is not thing))
                yield Foil(kind, Count(noun, number), Count(noun, number - 1), fewer)
    else:
        attribute = kind.removeprefix("replace ")
        names = [name for name in COLOURS if name in spec.colours] if attribute == "colour" else spec.shapes
        for thing, name in itertools.product(layout.things, names):
            new = replace(thing, colour=name) if attribute == "colour" else replace(thing, shape=name)
            yield Foil(kind, Exists(Noun.of(thing)), Exists(Noun.of(new)), _with(layout, {thing: new}))


def _swaps(kind: str, layout: Layout) -> Iterator[Foil]:
    for a, b in itertools.permutations(layout.things, 2):
        if a.colour == b.colour or a.shape == b.shape:
            continue
        for relation in RELATIONS[:4]:
            if not holds_between(a, relation, b, layout):
                continue
            true = Relation(Noun.of(a), relation, Noun.of(b))
            if kind == "swap relation":
                moved = _with(layout, {a: replace(a, x=b.x, y=b.y), b: replace(b, x=a.x, y=a.y)})
                yield Foil(kind, true, true.turned(), moved)
                continue
            if kind == "swap colour":
                new_a, new_b = replace(a, colour=b.colour), replace(b, colour=a.colour)
            else:
                new_a, new_b = replace(a, shape=b.shape), replace(b, shape=a.shape)
            yield Foil(
                kind, true, Relation(Noun.of(new_a), relation, Noun.of(new_b)), _with(layout, {a: new_a, b: new_b})
            )


def _with(layout: Layout, changed: dict[Thing, Thing]) -> Layout:
    return replace(layout, things=tuple(changed.get(thing, thing) for thing in layout.things))


def _is_foil(foil: Foil, layout: Layout) -> bool:
    return (
        foil.true.holds(layout)
        and not foil.false.holds(layout)
        and foil.false.holds(foil.layout)
        and not foil.true.holds(foil.layout)
    )


def _allowed(layout: Layout, spec: SceneSpec) -> bool:
    return spec.split == "held-out" or not any(spec.is_held_out(*thing.kind) for thing in layout.things)
