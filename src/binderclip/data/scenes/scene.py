"""One scene: its picture, captions, objects, masks, boxes and foils."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from binderclip.data.hashing import Draws
from binderclip.data.scenes.captions import Caption, Foil, captions, foils
from binderclip.data.scenes.drawing import Box, Drawing, box_of, draw
from binderclip.data.scenes.layout import Layout, Thing, lay_out
from binderclip.data.scenes.spec import SceneSpec
from binderclip.errors import InputError

__all__ = ["Scene", "render", "scene"]


@dataclass(frozen=True)
class Scene:
    """A picture and all that is true of it. What needs pixels is drawn when it is first asked for.

    Args:
        number: within its family.
        spec: the family.
        layout: what it holds.
    """

    number: int
    spec: SceneSpec
    layout: Layout

    @property
    def id(self) -> str:
        """Split, seed and number."""
        return f"{self.spec.split}/{self.spec.seed}/{self.number}"

    @property
    def objects(self) -> tuple[Thing, ...]:
        """From the back to the front."""
        return self.layout.things

    @cached_property
    def drawing(self) -> Drawing:
        """The pixels."""
        return draw(self.layout, self.spec.size)

    @property
    def image(self) -> Image.Image:
        """RGB, `spec.size` pixels a side."""
        return self.drawing.image

    @property
    def masks(self) -> NDArray[np.bool_]:
        """What is seen of each object [K, H, W]."""
        return self.drawing.masks

    @cached_property
    def boxes(self) -> tuple[Box, ...]:
        """(x0, y0, x1, y1) in pixels around what is seen of each object."""
        return tuple(box_of(mask) for mask in self.masks)

    @property
    def depth(self) -> NDArray[np.int64]:
        """Which object is seen at each pixel [H, W]: 0 the ground, k the k-th object from the back."""
        order = np.arange(1, len(self.masks) + 1)[:, None, None]
        depth: NDArray[np.int64] = (self.masks * order).max(axis=0)
        return depth

    @cached_property
    def captions(self) -> list[Caption]:
        """`spec.captions` true ones, the first a list of what there is."""
        return captions(self.layout, self._draws, self.spec.captions)

    @cached_property
    def foils(self) -> list[Foil]:
        """False captions beside true ones, each with the scene of which it would be true (see `render`)."""
        return foils(self.layout, self._draws, self.spec)

    @property
    def _draws(self) -> Draws:
        return Draws(self.spec.seed, f"captions/{self.id}")


def scene(number: int, spec: SceneSpec | None = None) -> Scene:
    """Scene `number` of a family.

    Raises:
        InputError: a negative number.
    """
    if number < 0:
        raise InputError(f"there is no scene {number}: count from 0")
    spec = spec or SceneSpec()
    return Scene(number, spec, lay_out(spec, number))


def render(layout: Layout, size: int) -> Image.Image:
    """The picture of any layout, as of a foil's."""
    return draw(layout, size).image
