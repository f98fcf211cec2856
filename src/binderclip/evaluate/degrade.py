"""Graded degradations of pictures for quality: 24 kinds in seven groups, five levels (as in QualiCLIP, arXiv 2403.11176).

Our own drawings with numpy and Pillow. What is random, an angle or a field of noise, is a function of (seed, key, kind) and
not of the level, so that a level is the one before it, and more; lengths are for a side of 224 pixels.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from binderclip.data.hashing import hash64
from binderclip.errors import InputError, UnknownNameError
from binderclip.evaluate.corruption import _convolve as convolve
from binderclip.evaluate.corruption import _fetch as fetch
from binderclip.evaluate.corruption import _image as to_image
from binderclip.evaluate.corruption import _smooth as smooth
from binderclip.evaluate.corruption import _streak as streak

__all__ = ["GROUPS", "KINDS", "LEVELS", "degrade"]

Floats = NDArray[np.float64]
RNG = np.random.Generator
LEVELS = 5
#: The kinds by what they spoil.
GROUPS = {
    "blur": ("gaussian_blur", "lens_blur", "motion_blur"),
    "colour": ("colour_diffusion", "colour_shift", "saturation_hsv", "saturation_lab"),
    "compression": ("jpeg", "jpeg2000"),
    "noise": ("white_noise", "colour_noise", "impulse_noise", "multiplicative_noise"),
    "brightness": ("brighten", "darken", "mean_shift"),
    "spatial": ("jitter", "patch", "pixelate", "quantise", "colour_block"),
    "contrast": ("sharpen", "linear_contrast", "non_linear_contrast"),
}
KINDS = tuple(kind for kinds in GROUPS.values() for kind in kinds)
# RGB to YCbCr-like opponent axes: luma (ITU-R 601), blue - luma, red - luma
_OPPONENT = np.array([[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]])


def degrade(image: Image.Image, kind: str, level: int, *, key: str = "", seed: int = 0) -> Image.Image:
    """A degraded copy of an RGB picture; level 0 is the picture itself.

    Args:
        image: the picture.
        kind: of KINDS.
        level: 0 to 5.
        key: two crops of one picture get the same parameters with one key.
        seed: of what is random.

    Raises:
        UnknownNameError: no such kind.
        InputError: a level outside 0 to 5.
    """
    if kind not in _TABLE:
        raise UnknownNameError(f"no degradation is called {kind!r}: use {', '.join(KINDS)}")
    if not 0 <= level <= LEVELS:
        raise InputError(f"level {level} is out of range: use 1 to {LEVELS}")
    if level == 0:
        return image
    x = np.asarray(image.convert("RGB"), np.float64) / 255.0
    return to_image(_TABLE[kind](x, level - 1, np.random.default_rng(hash64(seed, f"{key}/{kind}"))))


def _gaussian_blur(x: Floats, s: int, rng: RNG) -> Floats:
    return smooth(x, (0.7, 1.4, 2.4, 4.0, 6.5)[s] * _unit(x))


def _lens_blur(x: Floats, s: int, rng: RNG) -> Floats:
    radius = (1.2, 2.2, 3.6, 5.5, 8.0)[s] * _unit(x)
    R = max(1, math.ceil(radius))
    grid = np.arange(-R, R + 1)
    disk = np.clip(radius + 0.5 - np.hypot(grid[:, None], grid[None]), 0.0, 1.0)
    return convolve(x, disk / disk.sum())


def _motion_blur(x: Floats, s: int, rng: RNG) -> Floats:
    return streak(x, (4.0, 8.0, 13.0, 20.0, 30.0)[s] * _unit(x), rng.uniform(0, math.pi))


def _colour_diffusion(x: Floats, s: int, rng: RNG) -> Floats:
    """Colour flows out of its edges, lightness stays."""
    axes = x @ _OPPONENT.T
    sigma = (2.0, 4.0, 7.0, 11.0, 18.0)[s] * _unit(x)
    blurred = smooth(np.clip(axes / 2 + 0.5, 0, 1), sigma) * 2 - 1
    return np.asarray(np.concatenate([axes[..., :1], blurred[..., 1:]], axis=2) @ np.linalg.inv(_OPPONENT).T)


def _colour_shift(x: Floats, s: int, rng: RNG) -> Floats:
    """One channel slides away, most where the picture has edges."""
    angle, reach = rng.uniform(0, 2 * math.pi), (2.0, 4.0, 7.0, 11.0, 16.0)[s] * _unit(x)
    h, w = x.shape[:2]
    still = np.zeros((h, w), np.int64)
    moved = fetch(x, still + round(reach * math.sin(angle)), still + round(reach * math.cos(angle)))
    out = x.copy()
    out[..., 1] = moved[..., 1]
    return out


def _saturation_hsv(x: Floats, s: int, rng: RNG) -> Floats:
    """Colours fade towards their own largest channel."""
    value = x.max(axis=2, keepdims=True)
    out: Floats = value - (value - x) * (0.7, 0.5, 0.3, 0.15, 0.0)[s]
    return out


def _saturation_lab(x: Floats, s: int, rng: RNG) -> Floats:
    """Colours grow louder away from grey of the same lightness."""
    axes = x @ _OPPONENT.T
    axes[..., 1:] *= (1.4, 2.0, 3.0, 4.5, 7.0)[s]
    return np.asarray(axes @ np.linalg.inv(_OPPONENT).T)


def _jpeg(x: Floats, s: int, rng: RNG) -> Floats:
    return _coded(x, "JPEG", quality=(45, 28, 17, 10, 5)[s])


def _jpeg2000(x: Floats, s: int, rng: RNG) -> Floats:
    return _coded(x, "JPEG2000", quality_mode="rates", quality_layers=[(20, 40, 70, 120, 220)[s]])


def _white_noise(x: Floats, s: int, rng: RNG) -> Floats:
    return x + (0.03, 0.06, 0.11, 0.18, 0.28)[s] * rng.normal(size=x.shape)


def _colour_noise(x: Floats, s: int, rng: RNG) -> Floats:
    axes = x @ _OPPONENT.T
    axes[..., 1:] += (0.03, 0.07, 0.12, 0.2, 0.3)[s] * rng.normal(size=axes[..., 1:].shape)
    return np.asarray(axes @ np.linalg.inv(_OPPONENT).T)


def _impulse_noise(x: Floats, s: int, rng: RNG) -> Floats:
    u, share = rng.random(x.shape), (0.005, 0.015, 0.04, 0.09, 0.18)[s]
    salt = rng.random(x.shape) < 0.5
    return np.where(u < share, np.where(salt, 1.0, 0.0), x)


def _multiplicative_noise(x: Floats, s: int, rng: RNG) -> Floats:
    return x * (1.0 + (0.06, 0.12, 0.22, 0.35, 0.55)[s] * rng.normal(size=x.shape))


def _brighten(x: Floats, s: int, rng: RNG) -> Floats:
    return np.asarray(x ** (0.8, 0.65, 0.5, 0.37, 0.26)[s])


def _darken(x: Floats, s: int, rng: RNG) -> Floats:
    return np.asarray(x ** (1.3, 1.7, 2.3, 3.1, 4.2)[s])


def _mean_shift(x: Floats, s: int, rng: RNG) -> Floats:
    sign = 1.0 if rng.random() < 0.5 else -1.0
    return x + sign * (0.06, 0.12, 0.2, 0.3, 0.42)[s]


def _jitter(x: Floats, s: int, rng: RNG) -> Floats:
    """Every pixel from a place nearby, the same way at every level."""
    way = rng.uniform(-1, 1, (2, *x.shape[:2]))
    dy, dx = np.rint(way * (1.5, 2.5, 4.0, 6.0, 9.0)[s] * max(_unit(x), 0.3)).astype(np.int64)
    return fetch(x, dy, dx)


def _patch(x: Floats, s: int, rng: RNG) -> Floats:
    """Small squares are replaced by ones from a little beside them; more of them by level."""
    out, (h, w) = x.copy(), x.shape[:2]
    a = max(2, round(min(h, w) / 14))
    spots = rng.random((120, 2))
    for u, v in spots[: (8, 20, 40, 70, 120)[s]]:
        r, c = int(u * (h - 2 * a)), int(v * (w - 2 * a))
        out[r : r + a, c : c + a] = x[r + a : r + 2 * a, c + a : c + 2 * a]
    return out


def _pixelate(x: Floats, s: int, rng: RNG) -> Floats:
    image, share = to_image(x), (0.6, 0.4, 0.26, 0.17, 0.1)[s]
    w, h = image.size
    small = image.resize((max(1, round(w * share)), max(1, round(h * share))), Image.Resampling.BOX)
    return np.asarray(small.resize((w, h), Image.Resampling.NEAREST), np.float64) / 255.0


def _quantise(x: Floats, s: int, rng: RNG) -> Floats:
    steps = (19, 12, 7, 4, 2)[s]
    return np.asarray(np.rint(x * steps) / steps)


def _colour_block(x: Floats, s: int, rng: RNG) -> Floats:
    """Squares of one colour over the picture; more of them by level."""
    out, (h, w) = x.copy(), x.shape[:2]
    a = max(2, round(min(h, w) / 9))
    spots, paint = rng.random((20, 2)), rng.random((20, 3))
    for (u, v), colour in zip(spots[: (2, 4, 7, 12, 20)[s]], paint, strict=False):
        r, c = int(u * (h - a)), int(v * (w - a))
        out[r : r + a, c : c + a] = colour
    return out


def _sharpen(x: Floats, s: int, rng: RNG) -> Floats:
    return x + (1.0, 2.0, 3.5, 6.0, 10.0)[s] * (x - smooth(x, max(0.6, 1.5 * _unit(x))))


def _linear_contrast(x: Floats, s: int, rng: RNG) -> Floats:
    middle = x.mean(axis=(0, 1))
    return np.asarray(middle + (x - middle) * (0.75, 0.55, 0.4, 0.25, 0.12)[s])


def _non_linear_contrast(x: Floats, s: int, rng: RNG) -> Floats:
    """A curve in the shape of an S from black to white, ever steeper."""
    steep = (3.0, 5.0, 8.0, 13.0, 25.0)[s]
    curve, end = 1.0 / (1.0 + np.exp(-steep * (x - 0.5))), 1.0 / (1.0 + math.exp(steep / 2))
    return np.asarray((curve - end) / (1.0 - 2.0 * end))


def _coded(x: Floats, form: str, **options: object) -> Floats:
    out = io.BytesIO()
    to_image(x).save(out, form, **options)
    return np.asarray(Image.open(out).convert("RGB"), np.float64) / 255.0


def _unit(x: Floats) -> float:
    """Pixels of this picture for one pixel at a side of 224."""
    return float(min(x.shape[:2])) / 224.0


_TABLE: dict[str, Callable[[Floats, int, RNG], Floats]] = {kind: globals()[f"_{kind}"] for kind in KINDS}
