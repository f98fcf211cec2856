"""What a family of synthetic scenes may hold: the vocabulary, the ranges, and which combinations are kept for testing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from binderclip.data.hashing import hash64
from binderclip.errors import InputError

__all__ = ["COLOURS", "GROUNDS", "SIZES", "SPLITS", "TEXTURES", "WORDS", "SceneSpec"]

#: Name -> RGB.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 35, 35),
    "orange": (245, 140, 20),
    "yellow": (245, 225, 40),
    "green": (40, 160, 60),
    "cyan": (50, 205, 215),
    "blue": (40, 70, 220),
    "purple": (130, 50, 170),
    "pink": (250, 140, 190),
}
#: Name -> radius as a share of the picture's side.
SIZES: dict[str, float] = {"small": 0.10, "medium": 0.15, "large": 0.22}
#: Name -> RGB of the ground.
GROUNDS: dict[str, tuple[int, int, int]] = {"white": (245, 245, 245), "grey": (150, 150, 150), "black": (25, 25, 25)}
#: How the ground is painted.
TEXTURES = ("plain", "striped", "checked", "dotted", "noisy", "shaded")
#: Words that may be written into a picture: what the objects are called, and words that name nothing in it.
WORDS = "circle square star heart red blue cat dog sun tree exit sale".split()
SPLITS = ("train", "test", "held-out")
_SHAPES = "circle ring square diamond triangle star hexagon cross heart crescent".split()
_LABELS = ("", "shape", "colour", "kind", "count")


@dataclass(frozen=True)
class SceneSpec:
    """A family of scenes; scene i of it is a function of the spec and i alone.

    Args:
        rows: how many there are when they are used as pairs.
        size: side of the square picture in pixels.
        seed: another seed, other scenes.
        split: "train" and "test" never show a held-out combination of colour and shape; each scene of "held-out" does.
            The three share no scene.
        objects: fewest and most objects.
        shapes: which are drawn.
        colours: which are drawn.
        sizes: which are drawn.
        textures: of the ground; ("plain",) for flat ones.
        alike: share of scenes whose objects are all of one kind, for counting.
        overlap: how far objects may cover each other, 0 (apart) to 0.4, as a share of the sum of their radii.
        held_out: share of the combinations of colour and shape that "train" and "test" leave out.
        words: share of scenes with a written word.
        defects: share of scenes with a defect (scratch, stain, hole or speckle).
        captions: true captions a scene.
        label: what a pair is labelled with: "", "shape", "colour", "kind" (both) of the largest object, or "count".

    Raises:
        InputError: a name that is not in the vocabulary, or a range that is empty.
    """

    rows: int = 8192
    size: int = 32
    seed: int = 0
    split: str = "train"
    objects: tuple[int, int] = (1, 4)
    shapes: tuple[str, ...] = tuple(_SHAPES)
    colours: tuple[str, ...] = tuple(COLOURS)
    sizes: tuple[str, ...] = tuple(SIZES)
    textures: tuple[str, ...] = TEXTURES
    alike: float = 0.3
    overlap: float = 0.0
    held_out: float = 0.1
    words: float = 0.0
    defects: float = 0.0
    captions: int = 4
    label: str = ""

    def __post_init__(self) -> None:
        for field, known in (
            ("shapes", _SHAPES),
            ("colours", COLOURS),
            ("sizes", SIZES),
            ("textures", TEXTURES),
        ):
            unknown = [name for name in getattr(self, field) if name not in known]
            if unknown or not getattr(self, field):
                raise InputError(f"scenes have no {field} {unknown}: use some of {', '.join(known)}")
        if self.split not in SPLITS or self.label not in _LABELS:
            raise InputError(f"split {self.split!r}, label {self.label!r}: use one of {SPLITS} and of {_LABELS}")
        low, high = self.objects
        if not 1 <= low <= high <= 10 or self.size < 8 or self.rows < 1 or self.captions < 1:
            raise InputError("scenes have 1 to 10 objects, at least 8 pixels a side, 1 row and 1 caption")
        shares = (self.alike, self.held_out, self.words, self.defects)
        if not all(0 <= share <= 1 for share in shares) or not 0 <= self.overlap <= 0.4:
            raise InputError("shares of scenes lie in 0..1, overlap in 0..0.4")
        if not self.kinds(held_out=self.split == "held-out"):
            raise InputError(f"no combination of colour and shape is left for {self.split!r}: change held_out")

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> SceneSpec:
        """From texts, as in `scenes:1024?size=64&objects=2-5&shapes=circle,star`.

        Raises:
            InputError: an unknown option, or a value that is none.
        """
        types: dict[str, Any] = {field.name: type(field.default) for field in fields(cls)}
        given: dict[str, Any] = {}
        for name, text in options.items():
            if name not in types:
                raise InputError(f"scenes have no option {name!r}: use one of {', '.join(types)}")
            try:
                if name == "objects":
                    low, _, high = text.partition("-")
                    given[name] = (int(low), int(high or low))
                elif types[name] is tuple:
                    given[name] = tuple(text.split(","))
                else:
                    given[name] = types[name](text)
            except ValueError:
                raise InputError(f"{name}={text} is no value for scenes: see SceneSpec") from None
        return cls(**given)

    def is_held_out(self, colour: str, shape: str) -> bool:
        """Whether a combination is kept for "held-out": a function of the two names, the same for every seed."""
        return hash64(0, f"held-out/{colour} {shape}") / 2.0**64 < self.held_out

    def kinds(self, *, held_out: bool) -> list[tuple[str, str]]:
        """Combinations (colour, shape) that are held out, or that are not."""
        every = [(colour, shape) for colour in self.colours for shape in self.shapes]
        return [kind for kind in every if self.is_held_out(*kind) == held_out]
