"""A map drawn over its picture, with a legend: for people, so Pillow alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = ["heat", "overlay"]

#: From nothing to most: dark violet, red, orange, pale yellow; each lighter than the one before, so that grey copies read.
_STOPS = np.array([[30, 10, 60], [130, 30, 110], [220, 60, 60], [250, 150, 50], [255, 245, 170]], float)
_BAR, _MARGIN = 14, 8


def heat(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Numbers from 0 to 1 ``[...]`` to colours ``[..., 3]``."""
    at = np.clip(values, 0, 1) * (len(_STOPS) - 1)
    low = np.minimum(at.astype(int), len(_STOPS) - 2)
    part = (at - low)[..., None]
    colours: NDArray[np.uint8] = (_STOPS[low] * (1 - part) + _STOPS[low + 1] * part).round().astype(np.uint8)
    return colours


def overlay(image: Image.Image, values: NDArray[np.floating], lines: Sequence[str], *, side: int = 640) -> Image.Image:
    """The picture with a map ``[h, w]`` (0 to 1) over the square or whole that the tower saw, and lines of text below.

    Args:
        image: what the tower saw, RGB.
        values: the map.
        lines: below the picture; too long ones are cut.
        side: of the longer side in pixels; small pictures are enlarged.
    """
    scale = side / max(image.size)
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    picture = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC), float)
    wide = Image.fromarray(np.asarray(values, np.float32), mode="F").resize(size, Image.Resampling.BICUBIC)
    strength = np.clip(np.asarray(wide), 0, 1)[..., None]  # [H, W, 1]
    grey = picture.mean(-1, keepdims=True)
    mixed = (0.25 + 0.6 * strength) * heat(strength[..., 0]) + (0.75 - 0.6 * strength) * grey
    font = ImageFont.load_default(size=15)
    step = 20
    height = size[1] + _BAR + 3 * _MARGIN + step * (len(lines) + 1)
    page = Image.new("RGB", (max(size[0], 320), height), (250, 250, 250))
    page.paste(Image.fromarray(mixed.clip(0, 255).astype(np.uint8)), (0, 0))
    top = size[1] + _MARGIN
    bar = heat(np.linspace(0, 1, page.width - 2 * _MARGIN)[None].repeat(_BAR, 0))
    page.paste(Image.fromarray(bar), (_MARGIN, top))
    pen = ImageDraw.Draw(page)
    pen.text((_MARGIN, top + _BAR + 3), "nothing", fill=(60, 60, 60), font=font)
    most = "matters most"
    pen.text((page.width - _MARGIN - pen.textlength(most, font), top + _BAR + 3), most, fill=(60, 60, 60), font=font)
    for i, line in enumerate(lines):
        while len(line) > 4 and pen.textlength(line, font) > page.width - 2 * _MARGIN:
            line = line[:-2].rstrip(".") + "."
        pen.text((_MARGIN, top + _BAR + 4 + step * (i + 1)), line, fill=(20, 20, 20), font=font)
    return page
