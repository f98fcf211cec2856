"""Graded corruptions of pictures: 15 kinds and 4 more, 5 severities each (Hendrycks & Dietterich 2019, arXiv 1903.12261).

Our own drawings with numpy and Pillow, not the published pictures: figures are comparable with each other, not with
ImageNet-C. What is random is a function of (seed, key of the picture, kind, severity). Lengths are for a side of 224 pixels
and scale with the picture.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from binderclip.data.hashing import hash64
from binderclip.errors import InputError, UnknownNameError

__all__ = ["EXTRA", "KINDS", "corrupt"]

Floats = NDArray[np.float64]
Corruption = Callable[[Floats, int, np.random.Generator], Floats]


def corrupt(image: Image.Image, kind: str, severity: int, *, key: str = "", seed: int = 0) -> Image.Image:
    """A corrupted copy of an RGB picture; severity 0 is the picture itself.

    Raises:
        UnknownNameError: no corruption of that name.
        InputError: a severity outside 0 to 5.
    """
    if kind not in _TABLE:
        raise UnknownNameError(f"no corruption is called {kind!r}: use {', '.join(_TABLE)}")
    if not 0 <= severity <= 5:
        raise InputError(f"severity {severity} is out of range: use 1 to 5")
    if severity == 0:
        return image
    x = np.asarray(image.convert("RGB"), np.float64) / 255.0
    rng = np.random.default_rng(hash64(seed, f"{key}/{kind}/{severity}"))
    return _image(_TABLE[kind](x, severity - 1, rng))


def _gaussian_noise(x: Floats, s: int, rng: np.random.Generator) -> Floats:
    return x + (0.08, 0.12, 0.18, 0.26, 0.38)[s] * rng.normal(size=x.shape)


def _shot_noise(x: Floats, s: int, rng: np.random.Generator) -> Floats:
    photons = (60, 25, 12, 5, 3)[s]
    return rng.poisson(x * photons) / float(photons)


def _impulse_noise(x: Floats, s: int, rng: np.random.Generator) -> Floats:
    u = rng.random(x.shape)
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[s]
    return np.where(u < share / 2, 0.0, np.where(u > 1 - share / 2, 1.0, x))


def _speckle_noise(x: Floats, s: int, rng: np.random.Generator) -> Floats:
    return x + x * (0.15, 0.2, 0.35, 0.45, 0.6)[s] * rng.normal(size=x.shape)


def _gaussian_blur(x: Floats, s: int, rng: np.random.Generator) -> Floats:
    return _smooth(x, (1, 2, 3, 4, 6)[s] * _unit(x))


def _defocus_blur(x: Floats, s: int, rng: np.random.Generator) -> Floats:
    radius = (3, 4, 6, 8, 10)[s] * _unit(x)
    R = math.ceil(radius)
    grid = np.arange(-R, R + 1)
    disk = np.clip(radius + 0.5 - np.hypot(grid[:, None], grid[None]), 0.0, 1.0)  # soft edge
    return _convolve(x, disk / disk.sum())


def _glass_blur(x: Floats, s: int, rng: np.random.Generator) -> Floats:
    sigma, reach, rounds = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[s]
    out = _smooth(x, sigma * _unit(x))
    reach = max(1, round(reach * _unit(x)))
    for _ in range(rounds):
        out = _fetch(out, *rng.integers(-reach, reach + 1, (2, *x.shape[:2])))
    return _smooth(out, sigma * _unit(x))


def _motion_blur(x: Floats, s: int, rng: np.random.Generator) -> Floats:
    return _streak(x, (8, 12, 16, 21, 27)[s] * _unit(x), rng.uniform(-math.pi / 4, math.pi / 4))


def _zoom_blur(x: Floats, s: int, rng: np.random.Generator) -> Floats:
    image, (h, w) = _image(x), x.shape[:2]
    zooms = np.arange(1.0, (1.11, 1.16, 1.21, 1.26, 1.31)[s], 0.02)
    total = np.zeros(x.shape)
    for zoom in zooms:
        dx, dy = w * (1 - 1 / zoom) / 2, h * (1 - 1 / zoom) / 2
        total += np.asarray(image.resize((w, h), Image.Resampling.BILINEAR, (dx, dy, w - dx, h - dy)), np.float64) / 255
    return total / len(zooms)


def _snow(x: Floats, s: int, rng: np.random.Generator) -> Floats:
    share, length, veil = ((0.02, 6, 0.15), (0.03, 8, 0.22), (0.04, 10, 0.3), (0.05, 12, 0.38), (0.06, 14, 0.48))[s]
    size = max(1.0, 2.0 * _unit(x))
    h, w = (max(2, round(side / size)) for side in x.shape[:2])
    flakes = (rng.random((h, w)) < share).astype(np.float64)
    flakes = _resize(flakes, x.shape[0], x.shape[1])
    flakes = _streak(flakes[..., None], length * _unit(x), rng.uniform(math.pi / 4, 3 * math.pi / 4))
    grey = x.mean(axis=2, keepdims=True)
    whitened = (1 - veil) * x + veil * np.maximum(x, 0.5 + 0.5 * grey)
    out: Floats = whitened + flakes / max(float(flakes.max()), 1e-9) * (0.5 + 0.08 * s)
    return out


def _frost(x: Floats, s: int, rng: np.random.Generator) -> Floats:
    keep, ice = ((0.95, 0.35), (0.85, 0.5), (0.75, 0.6), (0.7, 0.7), (0.62, 0.78))[s]
    cloud = _plasma(x.shape[0], x.shape[1], rng, rough=0.75)
    needles = np.abs(np.sin(18.0 * _plasma(x.shape[0], x.shape[1], rng, rough=0.6))) ** 6
    cover = np.clip(0.7 * cloud + 0.5 * needles, 0, 1)[..., None] * np.array([0.9, 0.96, 1.0])
    out: Floats = keep * x + ice * cover
    return out


def _fog(x: Floats, s: int, rng: np.random.Generator) -> Floats:
    amount = (0.8, 1.2, 1.7, 2.2, 2.8)[s]
    mist = _plasma(x.shape[0], x.shape[1], rng, rough=0.5)[..., None]
    return (x + amount * (0.35 + 0.65 * mist)) / (1 + amount)


def _brightness(x: Floats, s: int, rng: np.random.Generator) -> Floats:
    value = x.max(axis=2, keepdims=True)
    raised = np.clip(value + (0.1, 0.2, 0.3, 0.4, 0.5)[s], 0, 1)
    out: Floats = np.where(value > 0, x * raised / np.maximum(value, 1e-9), raised)
    return out


def _contrast(x: Floats, s: int, rng: np.random.Generator) -> Floats:
    middle = x.mean(axis=(0, 1))
    out: Floats = (x - middle) * (0.4, 0.3, 0.2, 0.1, 0.05)[s] + middle
    return out


def _elastic(x: Floats, s: int, rng: np.random.Generator) -> Floats:
    amplitude = (3.0, 5.0, 8.0, 12.0, 17.0)[s] * _unit(x)
    h, w = x.shape[:2]
    field = [_resize(rng.normal(size=(8, 8)), h, w) for _ in range(2)]
    dy, dx = (amplitude * f / max(float(f.std()), 1e-9) for f in field)
    return _fetch(x, np.rint(dy).astype(np.int64), np.rint(dx).astype(np.int64))


def _pixelate(x: Floats, s: int, rng: np.random.Generator) -> Floats:
    image, share = _image(x), (0.6, 0.5, 0.4, 0.3, 0.25)[s]
    small = image.resize(tuple(max(1, round(side * share)) for side in image.size), Image.Resampling.BOX)  # type: ignore[arg-type]
    return np.asarray(small.resize(image.size, Image.Resampling.NEAREST), np.float64) / 255.0


def _jpeg(x: Floats, s: int, rng: np.random.Generator) -> Floats:
    out = io.BytesIO()
    _image(x).save(out, "JPEG", quality=(25, 18, 15, 10, 7)[s])
    return np.asarray(Image.open(out).convert("RGB"), np.float64) / 255.0


def _spatter(x: Floats, s: int, rng: np.random.Generator) -> Floats:
    mud = _resize(rng.normal(size=(24, 24)), x.shape[0], x.shape[1])
    share = (0.06, 0.1, 0.16, 0.22, 0.3)[s]
    spots = (mud > np.quantile(mud, 1 - share))[..., None]
    return np.where(spots, np.array([0.25, 0.17, 0.08]), x)


def _saturate(x: Floats, s: int, rng: np.random.Generator) -> Floats:
    grey = x.mean(axis=2, keepdims=True)
    out: Floats = grey + (x - grey) * (2, 3, 5, 10, 20)[s]
    return out


#: The fifteen of the paper.
KINDS = tuple(
    "gaussian_noise shot_noise impulse_noise defocus_blur glass_blur motion_blur zoom_blur snow frost fog brightness "
    "contrast elastic pixelate jpeg".split()
)
#: Four more, on which nothing should be chosen that is then reported on the fifteen.
EXTRA = tuple("speckle_noise gaussian_blur spatter saturate".split())
_TABLE: dict[str, Corruption] = {name: globals()[f"_{name}"] for name in (*KINDS, *EXTRA)}


def _unit(x: Floats) -> float:
    """Pixels of this picture for one pixel at a side of 224."""
    return float(min(x.shape[:2])) / 224.0


def _image(x: Floats) -> Image.Image:
    return Image.fromarray((np.clip(x, 0, 1) * 255.0 + 0.5).astype(np.uint8))


def _smooth(x: Floats, sigma: float) -> Floats:
    return np.asarray(_image(x).filter(ImageFilter.GaussianBlur(sigma)), np.float64) / 255.0


def _resize(field: Floats, h: int, w: int) -> Floats:
    image = Image.fromarray(field.astype(np.float32))
    return np.asarray(image.resize((w, h), Image.Resampling.BICUBIC), np.float64)


def _plasma(h: int, w: int, rng: np.random.Generator, rough: float) -> Floats:
    """Clouds in [0, 1]: random grids of doubling fineness, each weaker by `rough`."""
    total = np.zeros((h, w))
    for octave in range(1, 7):
        cells = 2**octave + 1
        total += rough**octave * _resize(rng.random((cells, cells)), h, w)
    low, high = total.min(), total.max()
    out: Floats = (total - low) / max(float(high - low), 1e-9)
    return out


def _fetch(x: Floats, dy: NDArray[np.int64], dx: NDArray[np.int64]) -> Floats:
    """Each pixel from a place `dy`, `dx` away, the border repeated."""
    h, w = x.shape[:2]
    rows = np.clip(np.arange(h)[:, None] + dy, 0, h - 1)
    columns = np.clip(np.arange(w)[None] + dx, 0, w - 1)
    out: Floats = x[rows, columns]
    return out


def _streak(x: Floats, length: float, angle: float) -> Floats:
    """The mean along a line."""
    R = max(1, math.ceil(length / 2))
    kernel = np.zeros((2 * R + 1, 2 * R + 1))
    for t in np.linspace(-length / 2, length / 2, 8 * R + 1):
        kernel[round(R + t * math.sin(angle)), round(R + t * math.cos(angle))] += 1.0
    return _convolve(x, kernel / kernel.sum())


def _convolve(x: Floats, kernel: Floats) -> Floats:
    """A kernel ``[2R+1, 2R+1]`` over each channel, the border repeated, through the Fourier transform."""
    R = kernel.shape[0] // 2
    padded = np.pad(x, ((R, R), (R, R), (0, 0)), mode="edge")
    shape = tuple(side + 2 * R for side in padded.shape[:2])
    product = np.fft.rfft2(padded, shape, axes=(0, 1)) * np.fft.rfft2(kernel, shape)[..., None]
    full = np.fft.irfft2(product, shape, axes=(0, 1))
    out: Floats = full[2 * R : 2 * R + x.shape[0], 2 * R : 2 * R + x.shape[1]]
    return out
