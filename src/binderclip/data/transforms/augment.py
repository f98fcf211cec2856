"""From ranges to one view: every number is drawn by name, so that adding an operation changes no other draw."""

from __future__ import annotations

import math
from dataclasses import dataclass

from binderclip.data.hashing import Draws
from binderclip.data.transforms.randaugment import RandAugment
from binderclip.data.transforms.view import CropBox, View
from binderclip.errors import InputError

__all__ = ["Augment", "draw_crop"]

_TRIES = 10
_JITTERS = ("brightness", "contrast", "saturation", "hue")


@dataclass(frozen=True)
class Augment:
    """What may be done to a picture, and how often. The defaults cut out half to all of it and change nothing else.

    The order is crop, resize, flip, RandAugment, jitter, grey, blur, solarise.

    Args:
        scale: area of the crop as a share of the picture's, smallest and largest.
        ratio: width by height of the crop, smallest and largest, drawn evenly in the logarithm.
        flip: probability.
        jitter: how far brightness, contrast and saturation may be from 1 (0.4: factors 0.6 to 1.4), and hue from 0 as a
            share of the circle, at most 0.5; in a drawn order.
        jitter_p: probability of the jitter.
        grey: probability of a grey picture.
        blur: probability of a Gaussian blur.
        sigma: of the blur in pixels of the view, smallest and largest.
        solarize: probability of inverting what is brighter than 128 (BYOL).
        randaugment: RandAugment, or None.
        size: side of the view in pixels; None takes the tower's.
        interpolation: of the resize; None takes the tower's.

    Raises:
        InputError: a range or a probability that makes no sense.
    """

    scale: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.0
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    jitter_p: float = 1.0
    grey: float = 0.0
    blur: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.0
    randaugment: RandAugment | None = None
    size: int | None = None
    interpolation: str | None = None

    def __post_init__(self) -> None:
        for name in ("scale", "ratio", "sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise InputError(f"{name} is {low} to {high}: give two positive numbers, the smaller first")
        if self.scale[1] > 1:
            raise InputError(f"scale goes to {self.scale[1]}: a crop is at most the whole picture, 1")
        for name in ("flip", "jitter_p", "grey", "blur", "solarize"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}: a probability lies in 0..1")
        if min(self.jitter) < 0 or max(self.jitter[:3]) > 1 or self.jitter[3] > 0.5:
            raise InputError(f"jitter is {self.jitter}: the first three lie in 0..1, hue in 0..0.5")

    def draw(self, draws: Draws, name: str, width: int, height: int, *, size: int, interpolation: str) -> View:
        """One view of a picture of that size.

        Args:
            draws: for this view of this row in this epoch.
            name: of the view.
            width: of the picture in pixels.
            height: of the picture in pixels.
            size: of the view when the augmentation names none.
            interpolation: when the augmentation names none.
        """
        steps: list[tuple[str, float]] = []
        if self.randaugment is not None:
            steps += self.randaugment.draw(draws.at("randaugment"))
        if any(self.jitter) and draws.unit("jitter") < self.jitter_p:
            steps += self._jitter(draws.at("jitter"))
        if draws.unit("grey") < self.grey:
            steps.append(("grey", 1.0))
        if draws.unit("blur") < self.blur:
            steps.append(("blur", draws.between("sigma", *self.sigma)))
        if draws.unit("solarize") < self.solarize:
            steps.append(("solarize", 128.0))
        return View(
            name,
            width,
            height,
            draw_crop(draws.at("crop"), width, height, self.scale, self.ratio),
            self.size or size,
            draws.unit("flip") < self.flip,
            tuple(steps),
            self.interpolation or interpolation,
        )

    def _jitter(self, draws: Draws) -> list[tuple[str, float]]:
        middles = (1.0, 1.0, 1.0, 0.0)
        found = []
        for kind, reach, middle in zip(_JITTERS, self.jitter, middles, strict=True):
            if reach:
                found.append((kind, draws.between(kind, middle - reach, middle + reach)))
        return draws.shuffled("order", found)


def draw_crop(draws: Draws, width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float]) -> CropBox:
    """Random resized crop (Szegedy et al. 2015): area even in `scale`, log(width / height) even in log `ratio`.

    Ten tries; when none fits into the picture, the largest middle part whose shape `ratio` allows.
    """
    area = width * height
    for i in range(_TRIES):
        target = area * draws.between(f"area {i}", *scale)
        shape = math.exp(draws.between(f"ratio {i}", math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(target * shape)), round(math.sqrt(target / shape))
        if 0 < w <= width and 0 < h <= height:
            return CropBox(draws.integer("top", 0, height - h), draws.integer("left", 0, width - w), h, w)
    w = min(width, max(round(height * ratio[1]), 1))
    h = min(height, max(round(width / ratio[0]), 1))
    return CropBox((height - h) // 2, (width - w) // 2, h, w)
