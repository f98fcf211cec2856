"""From a layout to pixels, masks and boxes, with numpy and Pillow."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from binderclip.data.hashing import Draws
from binderclip.data.scenes.layout import Layout
from binderclip.data.scenes.shapes import coverage
from binderclip.data.scenes.spec import COLOURS, GROUNDS

__all__ = ["Drawing", "box_of", "draw"]

Floats = NDArray[np.float64]
Masks = NDArray[np.bool_]
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Drawing:
    """Pixels and where everything is.

    Args:
        image: RGB.
        masks: what is seen of each thing [K, H, W], from the back to the front.
        whole: each thing as if nothing were in front of it [K, H, W].
        word: of the written word [H, W].
        defect: of the defect [H, W].
    """

    image: Image.Image
    masks: Masks
    whole: Masks
    word: Masks
    defect: Masks


def draw(layout: Layout, side: int) -> Drawing:
    """Paint the ground, the things from the back to the front, the defect, the word."""
    draws = Draws(0, layout.key)
    pixels = _ground(layout, draws, side)  # [H, W, 3], 0..255
    whole = np.zeros((len(layout.things), side, side), bool)
    seen = np.zeros((len(layout.things), side, side), bool)
    for k, thing in enumerate(layout.things):
        alpha = coverage(thing.shape, thing.x, thing.y, thing.r, thing.angle, side)
        colour = np.clip(np.add(COLOURS[thing.colour], thing.tint), 0, 255)
        pixels += alpha[..., None] * (colour - pixels)
        whole[k] = alpha > 0.5
        seen[:k] &= ~whole[k]
        seen[k] = whole[k]
    defect = _spoil(pixels, layout, draws.at("defect"), whole)
    image = Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8))
    word = _write(image, layout)
    seen &= ~word
    return Drawing(image, seen, whole, word, defect)


def box_of(mask: Masks) -> Box:
    """(x0, y0, x1, y1) around a mask [H, W], the ends one behind the last pixel; all 0 of an empty one."""
    if not mask.any():
        return 0, 0, 0, 0
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _ground(layout: Layout, draws: Draws, side: int) -> Floats:
    base = np.array(GROUNDS[layout.ground], float)
    pattern = _pattern(layout.texture, draws.at("ground"), side)  # [H, W], -1..1
    return base + 22.0 * pattern[..., None]


def _pattern(texture: str, draws: Draws, side: int) -> Floats:
    at = (np.arange(side) + 0.5) / side
    x, y = at[None, :], at[:, None]
    phase, turn = draws.between("phase", 0, 2 * np.pi), draws.between("turn", 0, np.pi)
    waves = 2 * np.pi * draws.between("waves", 3, 6)
    pattern: Floats = np.zeros((side, side))
    if texture == "striped":
        pattern = np.sign(np.sin(waves * (x * np.cos(turn) + y * np.sin(turn)) + phase))
    elif texture == "checked":
        pattern = np.sign(np.sin(waves * x + phase) * np.sin(waves * y + phase))
    elif texture == "dotted":
        pattern = np.where(np.sin(waves * x + phase) * np.sin(waves * y + phase) > 0.6, 1.0, -0.3)
    elif texture == "noisy":
        pattern = draws.array("noise", side, side) * 2 - 1
    elif texture == "shaded":
        pattern = (x - 0.5) * np.cos(turn) * 2 + (y - 0.5) * np.sin(turn) * 2
    return pattern


def _spoil(pixels: Floats, layout: Layout, draws: Draws, whole: Masks) -> Masks:
    """Put a defect into the pixels, in place; its mask [H, W]."""
    side = len(pixels)
    at = (np.arange(side) + 0.5) / side
    x, y = at[None, :], at[:, None]
    mask = np.zeros((side, side), bool)
    if not layout.defect:
        return mask
    u, v = draws.between("x", 0.2, 0.8), draws.between("y", 0.2, 0.8)
    if layout.defect == "scratch":
        turn, half = draws.between("turn", 0, np.pi), draws.between("half", 0.15, 0.3)
        along = (x - u) * np.cos(turn) + (y - v) * np.sin(turn)
        across = (y - v) * np.cos(turn) - (x - u) * np.sin(turn)
        mask = (np.abs(along) <= half) & (np.abs(across) <= max(0.012, 0.6 / side))
        pixels[mask] = 255 - pixels[mask]
    elif layout.defect == "hole":  # in the thing in front, where its ground would be
        thing = layout.things[-1]
        mask = ((x - thing.x) ** 2 + (y - thing.y) ** 2 <= (0.4 * thing.r) ** 2) & whole[-1]
        if not mask.any():  # a ring has no middle
            mask = whole[-1] & (x >= thing.x + 0.6 * thing.r)
        pixels[mask] = GROUNDS[layout.ground]
    else:
        r = draws.between("r", 0.06, 0.12)
        mask = (x - u) ** 2 + (y - v) ** 2 <= r * r
        if layout.defect == "stain":
            pixels[mask] = 0.35 * pixels[mask] + 0.65 * np.array([70.0, 50.0, 30.0])
        else:
            pixels[mask] = 255.0 * np.round(draws.array("speckle", side, side))[mask][:, None]
    return mask


@lru_cache(maxsize=16)
def _font(height: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=height)  # ships inside Pillow


def _write(image: Image.Image, layout: Layout) -> Masks:
    """Write the word, black on white ground and white on others; its mask [H, W]."""
    side = image.width
    if layout.word is None:
        return np.zeros((side, side), bool)
    ink = Image.new("L", image.size)
    corner = (round(layout.word.x * side), round(layout.word.y * side))
    ImageDraw.Draw(ink).text(corner, layout.word.text, fill=255, font=_font(max(round(layout.word.height * side), 6)))
    image.paste((0, 0, 0) if layout.ground == "white" else (255, 255, 255), (0, 0), ink)
    written: Masks = np.asarray(ink) > 127
    return written
