"""Synthetic scenes as pairs: `Pairs.open("scenes:8192?size=32&objects=1-3")`."""

from __future__ import annotations

from urllib.parse import parse_qsl

from binderclip.data.pairs import Pair, RowPairs
from binderclip.data.scenes.layout import Layout
from binderclip.data.scenes.scene import scene
from binderclip.data.scenes.spec import SceneSpec
from binderclip.errors import InputError

__all__ = ["ScenePairs"]


class ScenePairs(RowPairs):
    """The scenes of a family as rows: picture, captions, masks, boxes, and in `metadata` the objects and their phrases.

    Args:
        spec: the family.
    """

    def __init__(self, spec: SceneSpec) -> None:
        super().__init__(f"scenes/{spec.split}")
        self.spec = spec
        if spec.label == "shape":
            self.classes = spec.shapes
        elif spec.label == "colour":
            self.classes = spec.colours
        elif spec.label == "kind":
            self.classes = tuple(f"{colour} {shape}" for colour in spec.colours for shape in spec.shapes)

    @classmethod
    def from_spec(cls, text: str, split: str | None = None) -> ScenePairs:
        """From `scenes:ROWS?OPTION=VALUE&...`, the options those of `SceneSpec`.

        Raises:
            InputError: it is not so written.
        """
        rows, _, query = text.partition(":")[2].partition("?")
        options = dict(parse_qsl(query, keep_blank_values=True))
        if rows:
            options["rows"] = rows
        if split is not None:
            options["split"] = split
        if query and not options:
            raise InputError(f"{text} is not understood: write scenes:8192?size=32&objects=1-3")
        return cls(SceneSpec.from_options(options))

    @property
    def rows(self) -> int:
        """As the family says."""
        return self.spec.rows

    def row(self, number: int) -> Pair:
        """Scene `number`, drawn now."""
        made = scene(number, self.spec)
        layout = made.layout
        return Pair(
            id=made.id,
            image=made.image,
            captions=tuple(caption.text for caption in made.captions),
            label=self._label(layout),
            masks=tuple(made.masks),
            boxes=tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in made.boxes),
            source=self.name,
            provenance="grammar",
            metadata={
                "phrases": [thing.phrase for thing in layout.things],
                "shapes": [thing.shape for thing in layout.things],
                "colours": [thing.colour for thing in layout.things],
                "sizes": [thing.size for thing in layout.things],
                "count": len(layout.things),
                "ground": layout.ground,
                "texture": layout.texture,
                "word": layout.word.text if layout.word else "",
                "defect": layout.defect,
            },
        )

    def _label(self, layout: Layout) -> str | int | None:
        """Of the largest object, or how many there are."""
        largest = max(layout.things, key=lambda thing: thing.r)
        return {
            "": None,
            "shape": largest.shape,
            "colour": largest.colour,
            "kind": f"{largest.colour} {largest.shape}",
            "count": len(layout.things),
        }[self.spec.label]
