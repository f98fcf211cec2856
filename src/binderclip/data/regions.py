"""Regions of a picture, by box or by mask, and the marks that draw a model's eye to one of them.

Red Circle (Shtedritski et al. 2023, arXiv 2304.06712) draws an ellipse around a region, and may blur or grey what is
outside; FALIP (Zhuang et al. 2024, arXiv 2407.05578) compares boxes, circles, blurs and crops with an attention that needs
no drawing. On people a circle shifts what a model says towards negative labels: look before you rely on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from binderclip.data.pairs import Pair
from binderclip.errors import InputError, UnknownNameError

__all__ = ["KINDS", "Region", "Regions", "draw_mark"]

Box = tuple[float, float, float, float]
Mask = NDArray[np.bool_]

#: Marks: outlines that are drawn, and pictures in which only the region is left as it was.
KINDS = ("circle", "box", "cross", "arrow", "contour", "blur", "grey", "colour", "crop", "none")
_OUTSIDES = ("none", "blur", "grey")


@dataclass(frozen=True)
class Region:
    """A part of a picture.

    Args:
        box: (x0, y0, x1, y1) in pixels, the ends not included.
        mask: [H, W] of the whole picture; None means all of the box.
        phrase: what it shows.
    """

    box: Box
    mask: Mask | None = None
    phrase: str = ""

    @property
    def area(self) -> float:
        """In pixels: of the mask, or of the box."""
        if self.mask is not None:
            return float(self.mask.sum())
        x0, y0, x1, y1 = self.box
        return max(x1 - x0, 0.0) * max(y1 - y0, 0.0)

    @classmethod
    def of_mask(cls, mask: NDArray[Any], phrase: str = "") -> Region:
        """With the box around a mask [H, W].

        Raises:
            InputError: the mask is empty or not of two axes.
        """
        there = np.asarray(mask) > 0
        if there.ndim != 2 or not there.any():
            raise InputError("a region's mask is [H, W] with at least one pixel: leave out empty ones")
        rows, columns = np.flatnonzero(there.any(axis=1)), np.flatnonzero(there.any(axis=0))
        return cls((float(columns[0]), float(rows[0]), columns[-1] + 1.0, rows[-1] + 1.0), there, phrase)


@dataclass(frozen=True)
class Regions:
    """The regions of one picture.

    Args:
        items: in the order of the row.
    """

    items: tuple[Region, ...]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Region]:
        return iter(self.items)

    def __getitem__(self, index: int) -> Region:
        return self.items[index]

    @classmethod
    def of(cls, pair: Pair) -> Regions:
        """Of a row: its boxes, its masks, and phrases when its metadata has them. Empty masks are regions without area.

        Raises:
            InputError: boxes, masks and phrases are not equally many.
        """
        boxes, masks = pair.boxes, [np.asarray(mask) > 0 for mask in pair.masks]
        phrases = list(pair.metadata.get("phrases", ()))
        counts = {len(part) for part in (boxes, masks, phrases) if len(part)}
        if len(counts) > 1:
            raise InputError(
                f"row {pair.id} has {len(boxes)} boxes, {len(masks)} masks, {len(phrases)} phrases: one a region"
            )
        count = counts.pop() if boxes or masks else 0
        phrases = phrases or [""] * count
        if boxes:
            items = [Region(boxes[i], masks[i] if masks else None, phrases[i]) for i in range(count)]
        else:
            empty = Region((0.0, 0.0, 0.0, 0.0))
            items = [
                Region.of_mask(mask, phrase) if mask.any() else Region(empty.box, mask, phrase)
                for mask, phrase in zip(masks, phrases, strict=False)
            ]
        return cls(tuple(items))

    @property
    def boxes(self) -> NDArray[np.float64]:
        """[K, 4]."""
        return np.array([region.box for region in self.items], float).reshape(-1, 4)

    @property
    def phrases(self) -> list[str]:
        """Of each."""
        return [region.phrase for region in self.items]

    def marks(self, image: Image.Image, kind: str = "circle", **options: Any) -> list[Image.Image]:
        """The picture once a region, each with that region marked; see `draw_mark`.

        Raises:
            InputError: a region without a pixel in the picture, such as an object that is hidden.
        """
        return [draw_mark(image, region, kind, **options) for region in self.items]


def draw_mark(
    image: Image.Image,
    region: Region | Sequence[float],
    kind: str = "circle",
    *,
    colour: tuple[int, int, int] = (255, 0, 0),
    width: int | None = None,
    outside: str = "none",
    sigma: float | None = None,
    padding: float = 0.0,
) -> Image.Image:
    """The picture with one region marked, on its own pixels, before any resize.

    Edges are not smoothed: pixels of the line are exactly of the colour, all others of an outline exactly what they were.

    Args:
        image: upright, RGB.
        region: or its box (x0, y0, x1, y1).
        kind: "circle" the ellipse inscribed in the box; "box" its rim; "cross" its two diagonals; "arrow" from the upper
            left to the middle; "contour" the rim of the mask, inside it; "blur" and "grey" all but the region; "colour"
            all but the region painted in `colour`; "crop" the box cut out; "none" nothing.
        colour: of the line.
        width: of the line in pixels, drawn inwards; by default the larger of 1, long side / 200 and 2 % of the short side.
        outside: "none", "blur" or "grey": what happens outside an outline's ellipse, box or mask, before it is drawn.
        sigma: of the blur in pixels; by default 15 % of the short side.
        padding: the box grows by this share of its own side to each side, for every kind.

    Raises:
        UnknownNameError: an unknown kind.
        InputError: an unknown `outside`, a line narrower than 1, or a box without a pixel in the picture.
    """
    if kind not in KINDS:
        raise UnknownNameError(f"no mark {kind!r}: use one of {', '.join(KINDS)}")
    if outside not in _OUTSIDES or (width is not None and width < 1):
        raise InputError(f"outside {outside!r}, width {width}: use one of {', '.join(_OUTSIDES)} and at least 1 pixel")
    given = region if isinstance(region, Region) else Region(_box(region))
    box = _grown(given.box, padding)
    _check(box, image)
    image = image if image.mode == "RGB" else image.convert("RGB")
    if kind == "crop":
        return image.crop(_whole_pixels(box, image))
    if kind == "none":
        return image.copy()
    line = width or max(1, max(image.size) // 200, round(0.02 * min(image.size)))
    blur = 0.15 * min(image.size) if sigma is None else sigma
    inside = _inside(kind, box, given.mask, image)
    pixels = np.array(image)
    changed = outside if kind in _OUTLINES else kind
    if changed != "none":
        pixels[~inside] = _background(image, changed, blur, colour)[~inside]
    if kind in _OUTLINES:
        pixels[_OUTLINES[kind](box, inside, line)] = colour
    return Image.fromarray(pixels)


def _background(image: Image.Image, kind: str, sigma: float, colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    if kind == "blur":
        return np.asarray(image.filter(ImageFilter.GaussianBlur(sigma)))
    if kind == "grey":
        return np.asarray(image.convert("L").convert("RGB"))
    return np.full((image.height, image.width, 3), colour, np.uint8)


def _inside(kind: str, box: Box, mask: Mask | None, image: Image.Image) -> Mask:
    """Pixels [H, W] of the region: by the ellipse for a circle, else by the mask if there is one, else by the box."""
    shape = (image.height, image.width)
    if kind == "circle":
        return _ellipse(box, shape)
    if mask is not None and kind in ("contour", "blur", "grey", "colour"):
        if mask.shape != shape:
            raise InputError(f"the mask is {mask.shape}, the picture {shape}: give masks of the picture's own pixels")
        return mask
    return _rectangle(box, shape)


def _centres(shape: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x = np.arange(shape[1], dtype=np.float64)[None, :] + 0.5
    y = np.arange(shape[0], dtype=np.float64)[:, None] + 0.5
    return x, y


def _rectangle(box: Box, shape: tuple[int, int]) -> Mask:
    x, y = _centres(shape)
    found: Mask = (x > box[0]) & (x < box[2]) & (y > box[1]) & (y < box[3])
    return found


def _ellipse(box: Box, shape: tuple[int, int]) -> Mask:
    """Centres with (2 (x - cx) / w)^2 + (2 (y - cy) / h)^2 <= 1; none when the box has no width."""
    x, y = _centres(shape)
    w, h = box[2] - box[0], box[3] - box[1]
    if w <= 0 or h <= 0:
        return np.zeros(shape, bool)
    found: Mask = (2 * x - box[0] - box[2]) ** 2 / w**2 + (2 * y - box[1] - box[3]) ** 2 / h**2 <= 1
    return found


def _shrunk(box: Box, by: float) -> Box:
    return box[0] + by, box[1] + by, box[2] - by, box[3] - by


def _circle_line(box: Box, inside: Mask, width: int) -> Mask:
    return inside & ~_ellipse(_shrunk(box, width), (inside.shape[0], inside.shape[1]))


def _box_line(box: Box, inside: Mask, width: int) -> Mask:
    return inside & ~_rectangle(_shrunk(box, width), (inside.shape[0], inside.shape[1]))


def _cross(box: Box, inside: Mask, width: int) -> Mask:
    x0, y0, x1, y1 = box
    return inside & (_segment((x0, y0), (x1, y1), inside, width) | _segment((x0, y1), (x1, y0), inside, width))


def _arrow(box: Box, inside: Mask, width: int) -> Mask:
    """A shaft to the middle, and a head whose sides are a third as long, one across and one down."""
    x0, y0, x1, y1 = box
    tip = ((x0 + x1) / 2, (y0 + y1) / 2)
    across, down = (tip[0] - (x1 - x0) / 6, tip[1]), (tip[0], tip[1] - (y1 - y0) / 6)
    lines = [_segment(start, tip, inside, width) for start in ((x0, y0), across, down)]
    return inside & (lines[0] | lines[1] | lines[2])


def _contour(box: Box, inside: Mask, width: int) -> Mask:
    """Pixels of the mask that are fewer than `width` steps, of the four directions, from the outside."""
    core = np.pad(inside, 1)
    for _ in range(width):
        core[1:-1, 1:-1] &= core[:-2, 1:-1] & core[2:, 1:-1] & core[1:-1, :-2] & core[1:-1, 2:]
    found: Mask = inside & ~core[1:-1, 1:-1]
    return found


def _segment(start: tuple[float, float], end: tuple[float, float], like: Mask, width: int) -> Mask:
    """Pixels whose centre is at most half a width, but at least 0.71, from a line."""
    x, y = _centres((like.shape[0], like.shape[1]))
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = ((x - start[0]) * dx + (y - start[1]) * dy) / max(dx * dx + dy * dy, 1e-12)
    along = np.clip(along, 0, 1)
    found: Mask = np.hypot(x - start[0] - along * dx, y - start[1] - along * dy) <= max(width / 2, math.sqrt(0.5))
    return found


_OUTLINES: dict[str, Callable[[Box, Mask, int], Mask]] = {
    "circle": _circle_line,
    "box": _box_line,
    "cross": _cross,
    "arrow": _arrow,
    "contour": _contour,
}


def _box(values: Sequence[float]) -> Box:
    if len(values) != 4:
        raise InputError(f"a box has 4 numbers, not {len(values)}: give (x0, y0, x1, y1)")
    x0, y0, x1, y1 = values
    return float(x0), float(y0), float(x1), float(y1)


def _grown(box: Box, share: float) -> Box:
    x, y = share * (box[2] - box[0]), share * (box[3] - box[1])
    return box[0] - x, box[1] - y, box[2] + x, box[3] + y


def _whole_pixels(box: Box, image: Image.Image) -> tuple[int, int, int, int]:
    """The pixels that a box touches, cut to the picture."""
    x0, y0, x1, y1 = box
    return (
        max(math.floor(x0), 0),
        max(math.floor(y0), 0),
        min(math.ceil(x1), image.width),
        min(math.ceil(y1), image.height),
    )


def _check(box: Box, image: Image.Image) -> None:
    if not all(math.isfinite(value) for value in box):
        raise InputError(f"the box {box} is not of finite numbers: give (x0, y0, x1, y1) in pixels")
    x0, y0, x1, y1 = _whole_pixels(box, image)
    if x0 >= x1 or y0 >= y1 or box[0] >= box[2] or box[1] >= box[3]:
        raise InputError(f"the box {box} has no pixel in a picture of {image.width} x {image.height}: leave it out")
