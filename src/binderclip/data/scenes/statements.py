"""Sentences about a scene that know whether they are true."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from binderclip.data.scenes.layout import OPPOSITE, Layout, Thing, holds_between

__all__ = ["All", "Count", "Exists", "Ground", "Noun", "Relation", "Says", "Statement", "group"]

NUMBERS = "no one two three four five six seven eight nine ten eleven".split()


class Statement(Protocol):
    """Something said of a scene."""

    @property
    def text(self) -> str:
        """In English, without a full stop."""
        ...

    def holds(self, layout: Layout) -> bool:
        """Whether it is true of a scene."""
        ...


@dataclass(frozen=True)
class Noun:
    """What is spoken of: "red circle", "large star", "blue object"; None leaves an attribute open."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None

    @classmethod
    def of(cls, thing: Thing, *, size: bool = False) -> Noun:
        """The noun of a thing, by colour and shape."""
        return cls(thing.shape, thing.colour, thing.size if size else None)

    def fits(self, thing: Thing) -> bool:
        """Whether a thing may be called so."""
        return (
            self.shape in (None, thing.shape)
            and self.colour in (None, thing.colour)
            and self.size in (None, thing.size)
        )

    def count(self, layout: Layout) -> int:
        """How many things may be called so."""
        return sum(self.fits(thing) for thing in layout.things)

    @property
    def words(self) -> str:
        """Singular, without an article."""
        return " ".join(word for word in (self.size, self.colour, self.shape or "object") if word)

    def said(self, count: int = 1) -> str:
        """With an article or a number: "a red circle", "two crosses"."""
        if count == 1:
            return f"{'an' if self.words[0] in 'aeiou' else 'a'} {self.words}"
        plural = self.words + ("es" if self.words.endswith("s") else "s")
        return f"{NUMBERS[count]} {plural}"


@dataclass(frozen=True)
class Exists:
    """At least one: "a large red circle"."""

    noun: Noun

    @property
    def text(self) -> str:
        """In English."""
        return self.noun.said()

    def holds(self, layout: Layout) -> bool:
        """Whether there is one."""
        return self.noun.count(layout) > 0


@dataclass(frozen=True)
class Count:
    """Exactly so many: "three circles", "one circle"."""

    noun: Noun
    number: int

    @property
    def text(self) -> str:
        """In English."""
        return f"one {self.noun.words}" if self.number == 1 else self.noun.said(self.number)

    def holds(self, layout: Layout) -> bool:
        """Whether there are as many, no more and no fewer."""
        return self.noun.count(layout) == self.number


@dataclass(frozen=True)
class All:
    """Several at once: "two red circles and a blue square on a plain grey ground"; things come before their ground."""

    parts: tuple[Statement, ...]

    @property
    def text(self) -> str:
        """In English."""
        texts = [part.text for part in self.parts if not isinstance(part, Ground | Says)]
        text = texts[0] if len(texts) == 1 else ", ".join(texts[:-1]) + " and " + texts[-1]
        for part in self.parts:
            if isinstance(part, Ground | Says):
                text += (" on " if isinstance(part, Ground) else " with ") + part.text
        return text

    def holds(self, layout: Layout) -> bool:
        """Whether each of them is true."""
        return all(part.holds(layout) for part in self.parts)


@dataclass(frozen=True)
class Relation:
    """Between two things: "a red circle left of a blue square"; true when some two things are so."""

    first: Noun
    relation: str
    second: Noun

    @property
    def text(self) -> str:
        """In English."""
        return f"{self.first.said()} {self.relation} {self.second.said()}"

    def holds(self, layout: Layout) -> bool:
        """Whether two different things are so."""
        return any(
            self.first.fits(a) and self.second.fits(b) and a is not b and holds_between(a, self.relation, b, layout)
            for a in layout.things
            for b in layout.things
        )

    def turned(self) -> Relation:
        """The opposite relation of the same two: false of them when this one is true."""
        return replace(self, relation=OPPOSITE[self.relation])


@dataclass(frozen=True)
class Ground:
    """What is behind: "a striped grey ground"."""

    colour: str
    texture: str

    @property
    def text(self) -> str:
        """In English."""
        return f"a {self.texture} {self.colour} ground"

    def holds(self, layout: Layout) -> bool:
        """Whether the ground is so."""
        return (layout.ground, layout.texture) == (self.colour, self.texture)


@dataclass(frozen=True)
class Says:
    """What is written: 'the word "cat"'."""

    word: str

    @property
    def text(self) -> str:
        """In English."""
        return f'the word "{self.word}"'

    def holds(self, layout: Layout) -> bool:
        """Whether that word is written."""
        return layout.word is not None and layout.word.text == self.word


def group(layout: Layout, most: int = 3) -> All:
    """How many there are of each colour and shape, the most numerous first, then the largest."""
    kinds = {
        thing.kind: (-layout.count(*thing.kind), -max(t.r for t in layout.things if t.kind == thing.kind))
        for thing in layout.things
    }
    chosen = sorted(kinds, key=lambda kind: kinds[kind])[:most]
    counts = [(Noun(shape, colour), layout.count(colour, shape)) for colour, shape in chosen]
    # "a red circle" leaves open whether there are more.
    return All(tuple(Exists(noun) if number == 1 else Count(noun, number) for noun, number in counts))
