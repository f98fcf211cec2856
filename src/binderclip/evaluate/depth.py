"""Corruptions that know how far things are (after 3D Common Corruptions, Kar et al. 2022, arXiv 2203.01441).

Fog, near and far focus and motion of the camera need a depth map; low light, over-exposure, sensor noise and colour
quantisation do not. Our own drawings; without a depth map nothing is called 3-D.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageFilter

from binderclip.data.hashing import hash64
from binderclip.errors import InputError, UnknownNameError

__all__ = ["FLAT", "SOLID", "corrupt3d"]

Floats = NDArray[np.float64]
#: Those that need a depth map, and those that do not.
SOLID = ("fog_3d", "near_focus", "far_focus", "xy_motion_3d")
FLAT = ("low_light", "over_exposure", "iso_noise", "colour_quant")


def corrupt3d(
    image: Image.Image, depth: ArrayLike | None, kind: str, severity: int, *, key: str = "", seed: int = 0
) -> Image.Image:
    """A corrupted copy of an RGB picture; severity 0 is the picture itself.

    Args:
        image: the picture.
        depth: ``[H, W]``, larger is farther; scaled to 0 .. 1 here. None for the kinds of FLAT.
        kind: of SOLID or FLAT.
        severity: 0 to 5.
        key: of the picture.
        seed: of what is random.

    Raises:
        UnknownNameError: no such kind.
        InputError: a severity outside 0 to 5, no depth where it is needed, or one of another size.
    """
    if kind not in SOLID + FLAT:
        raise UnknownNameError(f"no corruption is called {kind!r}: use {', '.join(SOLID + FLAT)}")
    if not 0 <= severity <= 5:
        raise InputError(f"severity {severity} is out of range: use 1 to 5")
    if severity == 0:
        return image
    x = np.asarray(image.convert("RGB"), np.float64) / 255.0
    rng = np.random.default_rng(hash64(seed, f"{key}/{kind}/{severity}"))
    if kind in FLAT:
        return _image(_flat(x, kind, severity - 1, rng))
    if depth is None:
        raise InputError(f"{kind} needs a depth map: give one, or use {', '.join(FLAT)}")
    z = np.asarray(depth, np.float64)
    if z.shape != x.shape[:2]:
        raise InputError(f"a depth map of {z.shape} does not fit a picture of {x.shape[:2]}: make them one size")
    z = (z - z.min()) / max(float(np.ptp(z)), 1e-9)
    return _image(_solid(x, z, kind, severity - 1))


def _solid(x: Floats, z: Floats, kind: str, s: int) -> Floats:
    if kind == "fog_3d":  # Koschmieder: light of the thing fades with distance, light of the air comes in
        through = np.exp(-(0.7, 1.2, 1.8, 2.6, 3.6)[s] * z)[..., None]
        out: Floats = through * x + (1 - through) * 0.85
        return out
    if kind == "xy_motion_3d":  # near things move farther while the shutter is open
        reach = (4, 7, 11, 16, 22)[s] * x.shape[1] / 224.0
        steps = np.linspace(-0.5, 0.5, 2 * max(2, math.ceil(reach)) + 1)
        near = 1.0 - 0.8 * z
        return np.asarray(np.mean([_shift(x, np.rint(t * reach * near).astype(int)) for t in steps], axis=0))
    focus = 0.0 if kind == "near_focus" else 1.0
    return _defocus(x, np.abs(z - focus), (1.5, 2.5, 4.0, 5.5, 8.0)[s] * min(x.shape[:2]) / 224.0)


def _flat(x: Floats, kind: str, s: int, rng: np.random.Generator) -> Floats:
    if kind == "low_light":
        dark = x ** (1.3, 1.6, 2.0, 2.5, 3.0)[s] * (0.7, 0.55, 0.42, 0.32, 0.24)[s]
        photons = (200.0, 140.0, 100.0, 70.0, 50.0)[s]
        return rng.poisson(dark * photons) / photons
    if kind == "over_exposure":
        return x * (1.3, 1.6, 2.0, 2.5, 3.2)[s]
    if kind == "iso_noise":  # photons and electronics together
        photons = (120.0, 60.0, 35.0, 22.0, 14.0)[s]
        out: Floats = rng.poisson(x * photons) / photons + (0.02, 0.04, 0.06, 0.08, 0.11)[s] * rng.normal(size=x.shape)
        return out
    levels = (24, 14, 9, 6, 4)[s]
    return np.asarray(np.rint(x * (levels - 1)) / (levels - 1))


def _defocus(x: Floats, amount: Floats, widest: float) -> Floats:
    """Each pixel from the picture blurred by its own amount, between six fixed blurs."""
    image = _image(x)
    grid = np.linspace(0.0, widest, 6)
    blurred = np.stack([np.asarray(image.filter(ImageFilter.GaussianBlur(float(s))), np.float64) / 255.0 for s in grid])
    place = amount * (len(grid) - 1)
    low = np.clip(np.floor(place).astype(int), 0, len(grid) - 2)
    part = (place - low)[..., None]
    rows, columns = np.indices(amount.shape)
    return np.asarray((1 - part) * blurred[low, rows, columns] + part * blurred[low + 1, rows, columns])


def _shift(x: Floats, dx: NDArray[np.int64]) -> Floats:
    h, w = x.shape[:2]
    columns = np.clip(np.arange(w)[None] + dx, 0, w - 1)
    out: Floats = x[np.arange(h)[:, None], columns]
    return out


def _image(x: Floats) -> Image.Image:
    return Image.fromarray((np.clip(x, 0, 1) * 255.0 + 0.5).astype(np.uint8))
