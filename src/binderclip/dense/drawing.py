"""A label map drawn over its picture with a legend: for people, so Pillow alone."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = ["colours", "draw_labels"]

_LINE, _MARGIN, _BOX = 24, 10, 14
#: Told apart by people who see few colours too (Okabe and Ito); further ones go round the hues.
_FIRST = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (213, 94, 0), (0, 114, 178), (204, 121, 167), (240, 228, 66))


def colours(n: int) -> NDArray[np.uint8]:
    """``[n, 3]`` colours, unlike each other."""
    turns = [colorsys.hsv_to_rgb((0.11 + 0.618034 * i) % 1, 0.65, 0.95) for i in range(max(n - len(_FIRST), 0))]
    more = [tuple(round(255 * c) for c in colour) for colour in turns]
    return np.array([*_FIRST, *more][:n], np.uint8).reshape(n, 3)


def draw_labels(image: Image.Image, labels: NDArray[np.int64], names: Sequence[str], *, side: int = 800) -> Image.Image:
    """The picture, each label's area in its colour with an edge, and a legend with each one's share of the picture.

    Args:
        image: RGB.
        labels: ``[H, W]`` of the picture's size, -1 where there is none.
        names: of the labels.
        side: of the longer side in pixels; small pictures are enlarged, large ones reduced.
    """
    scale = side / max(image.size)
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    picture = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC), float)
    small = Image.fromarray((labels + 1).astype(np.int32), mode="I").resize(size, Image.Resampling.NEAREST)
    at = np.asarray(small).astype(int) - 1  # [H, W]
    palette = colours(max(len(names), 1)).astype(float)
    there = (at >= 0)[..., None]
    grey = picture.mean(-1, keepdims=True)
    mixed = np.where(there, 0.55 * palette[np.maximum(at, 0)] + 0.45 * picture, 0.6 * grey + 0.4 * 255)
    edge = np.zeros(at.shape, bool)
    edge[1:] |= at[1:] != at[:-1]
    edge[:, 1:] |= at[:, 1:] != at[:, :-1]
    mixed[edge] = 255
    shares = [float((labels == i).mean()) for i in range(len(names))]
    order = sorted(range(len(names)), key=lambda i: -shares[i])
    font = ImageFont.load_default(size=15)
    page = Image.new("RGB", (max(size[0], 240), size[1] + 2 * _MARGIN + _LINE * len(names)), (250, 250, 250))
    page.paste(Image.fromarray(mixed.clip(0, 255).astype(np.uint8)), (0, 0))
    pen = ImageDraw.Draw(page)
    for row, i in enumerate(order):
        top = size[1] + _MARGIN + _LINE * row
        colour = tuple(int(c) for c in palette[i])
        pen.rectangle((_MARGIN, top + 3, _MARGIN + _BOX, top + 3 + _BOX), fill=colour, outline=(90, 90, 90))
        share = f"{100 * shares[i]:.0f} %" if shares[i] else "not found"
        text, room = names[i], page.width - 3 * _MARGIN - _BOX - pen.textlength(share, font) - _MARGIN
        while len(text) > 4 and pen.textlength(text, font) > room:
            text = text[:-2].rstrip(".") + "."
        pen.text((2 * _MARGIN + _BOX, top), text, fill=(20, 20, 20), font=font)
        right = page.width - _MARGIN - pen.textlength(share, font)
        pen.text((right, top), share, fill=(90, 90, 90), font=font)
    return page
