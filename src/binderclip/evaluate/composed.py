"""Pictures of several cut-out objects whose names, slots, sizes and places are known, for multi-object tests.

The slot of an object (where its name stands in the list) says nothing of its place on the canvas: places are drawn, and
all are alike, so that only the enlarged slot differs from the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from binderclip.data.hashing import Draws
from binderclip.data.pairs import Pair, RowPairs
from binderclip.data.scenes.shapes import SHAPES, coverage
from binderclip.data.scenes.spec import COLOURS
from binderclip.errors import InputError

__all__ = ["ComposedScenes", "balanced", "compose_scenes", "shape_sprites"]

LARGEST = 3.0  # an object that is enlarged so far fills its cell


def balanced(names: int, k: int, rows: int, seed: int = 0) -> NDArray[np.int64]:
    """``[rows, k]`` of different numbers under `names`: in each run of `names` rows, each stands once in every column."""
    out = list[Sequence[int]]()
    for turn in range(math.ceil(rows / names)):
        circle = Draws(seed, f"circle/{turn}").shuffled("order", range(names))
        out += [[circle[(i + j) % names] for j in range(k)] for i in range(names)]
    return np.array(out[:rows], np.int64)


class ComposedScenes(RowPairs):
    """Rows: picture, boxes in the order of the slots, and in `metadata` ``order``, ``areas``, ``big`` and ``scale``.

    Args:
        sprites: name -> cut-out, RGBA.
        n: rows.
        slots: objects in each.
        big_slot: the slot that is enlarged; None takes each in turn.
        big_scale: how much longer its sides are, 1 to 3.
        side: of the square canvas in pixels.
        ground: its colour.
        seed: of everything.

    Raises:
        InputError: fewer names than slots, no slot, or a scale out of range.
    """

    def __init__(
        self,
        sprites: Mapping[str, Image.Image],
        n: int,
        slots: int = 4,
        big_slot: int | None = 0,
        big_scale: float = 2.0,
        *,
        side: int = 224,
        ground: tuple[int, int, int] = (200, 200, 200),
        seed: int = 0,
    ) -> None:
        super().__init__("composed")
        if not 1 <= slots <= len(sprites) or n < 1:
            raise InputError(
                f"{slots} slots, {len(sprites)} sprites, {n} rows: give a sprite for every slot, and a row"
            )
        if not 1 <= big_scale <= LARGEST or (big_slot is not None and not 0 <= big_slot < slots):
            raise InputError(
                f"slot {big_slot} enlarged by {big_scale:g}: use a slot under {slots} and a scale of 1 to 3"
            )
        self.names = list(sprites)
        # the transparent rim goes, so that the longer side of what is seen is what is set
        self._sprites = [sprite.convert("RGBA").crop(sprite.convert("RGBA").getbbox()) for sprite in sprites.values()]
        self.slots, self.big_slot, self.big_scale = slots, big_slot, big_scale
        self.side, self.ground, self.seed = side, ground, seed
        self.members = balanced(len(self.names), slots, n, seed)

    @property
    def rows(self) -> int:
        """As asked for."""
        return len(self.members)

    def row(self, number: int) -> Pair:
        """Scene `number`, drawn now."""
        draws = Draws(self.seed, f"composed/{number}")
        across = math.ceil(math.sqrt(self.slots))
        places = draws.shuffled("places", range(across**2))[: self.slots]
        big = number % self.slots if self.big_slot is None else self.big_slot
        canvas, boxes = Image.new("RGB", (self.side, self.side), self.ground), []
        for slot, (name, place) in enumerate(zip(self.members[number], places, strict=True)):
            cell = self.side / across
            longer = cell / LARGEST * (self.big_scale if slot == big else 1.0)
            sprite = self._scaled(int(name), longer)
            x = round((place % across) * cell + draws.unit(f"x {slot}") * (cell - sprite.width))
            y = round((place // across) * cell + draws.unit(f"y {slot}") * (cell - sprite.height))
            canvas.paste(sprite, (x, y), sprite)
            boxes.append((float(x), float(y), float(x + sprite.width), float(y + sprite.height)))
        order = [self.names[int(k)] for k in self.members[number]]
        return Pair(
            id=f"composed/{self.seed}/{number}",
            image=canvas,
            captions=(" and ".join(order),),
            boxes=tuple(boxes),
            source=self.name,
            provenance="grammar",
            metadata={
                "order": order,
                "areas": [(b[2] - b[0]) * (b[3] - b[1]) / self.side**2 for b in boxes],
                "big": big,
                "scale": self.big_scale,
            },
        )

    def bank(self) -> list[Image.Image]:
        """Each object alone in the middle of a canvas, in the order of `names`, half as long as the canvas."""
        found = []
        for k in range(len(self.names)):
            canvas, sprite = Image.new("RGB", (self.side, self.side), self.ground), self._scaled(k, self.side / 2)
            canvas.paste(sprite, ((self.side - sprite.width) // 2, (self.side - sprite.height) // 2), sprite)
            found.append(canvas)
        return found

    def _scaled(self, k: int, longer: float) -> Image.Image:
        sprite = self._sprites[k]
        factor = longer / max(sprite.size)
        size = (max(1, round(sprite.width * factor)), max(1, round(sprite.height * factor)))
        return sprite.resize(size, Image.Resampling.LANCZOS)


def compose_scenes(
    sprites: Mapping[str, Image.Image], n: int, slots: int = 4, big_slot: int | None = 0, big_scale: float = 2.0
) -> ComposedScenes:
    """Scenes of `n` rows; see `ComposedScenes`."""
    return ComposedScenes(sprites, n, slots, big_slot, big_scale)


def shape_sprites(count: int = 18, side: int = 96) -> dict[str, Image.Image]:
    """Generated objects, each colour with each shape in turn: "red circle", "orange ring", ...

    Args:
        count: at most 80.
        side: pixels.
    """
    found: dict[str, Image.Image] = {}
    colours, shapes = list(COLOURS), list(SHAPES)
    for turn in range(len(shapes)):
        for i, colour in enumerate(colours):
            shape = shapes[(i + turn) % len(shapes)]
            alpha = coverage(shape, 0.5, 0.5, 0.48, 0.0, side)
            pixels = np.empty((side, side, 4), np.uint8)
            pixels[..., :3], pixels[..., 3] = COLOURS[colour], np.round(255 * alpha)
            found[f"{colour} {shape}"] = Image.fromarray(pixels, "RGBA")
            if len(found) == count:
                return found
    return found
