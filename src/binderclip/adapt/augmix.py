"""AugMix (Hendrycks et al. 2020, arXiv 1912.02781) at severity 1, every number drawn by hashing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from binderclip.data.hashing import Draws
from binderclip.data.transforms import apply, matrix_of
from binderclip.model.preprocess import Preprocess

__all__ = ["OPERATIONS", "augmix"]

OPERATIONS = (
    "autocontrast",
    "equalize",
    "posterize",
    "rotate",
    "solarize",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
CHAINS = 3


def augmix(pixels: NDArray[np.uint8], draws: Draws, prepare: Preprocess) -> NDArray[np.float32]:
    """``m x + (1 - m) sum_i w_i chain_i(x)`` of normalised pixels ``[3, H, W]``; m ~ Beta(1, 1), w ~ Dirichlet(1, 1, 1).

    Each of three chains has 1 to 3 operations of `OPERATIONS`, with a level l ~ U(0.1, 1) for each.

    Args:
        pixels: 8-bit model input ``[H, W, 3]``.
        draws: of this view.
        prepare: whose normalisation is used; mixing comes after it.
    """
    m = draws.unit("m")
    raw = [-math.log(1 - draws.unit(f"w {i}")) for i in range(CHAINS)]
    out = m * prepare.normalize(pixels[None])[0]
    for i in range(CHAINS):
        chain, image = draws.at(f"chain {i}"), Image.fromarray(pixels)
        for k in range(chain.integer("depth", 1, 3)):
            name = chain.choice(f"operation {k}", OPERATIONS)
            image = _changed(image, name, _number(name, chain.at(str(k)), image.width))
        out += (1 - m) * raw[i] / sum(raw) * prepare.normalize(np.asarray(image, np.uint8)[None])[0]
    done: NDArray[Any] = out.astype(np.float32)
    return done


def _changed(image: Image.Image, name: str, value: float) -> Image.Image:
    """One operation; what a move leaves empty is black here."""
    if name in ("autocontrast", "equalize", "posterize", "solarize") or value == 0:
        return apply(image, name, value)
    back = np.linalg.inv(matrix_of(name, value, image.width, image.height))
    numbers = tuple(float(number) for number in back[:2].ravel())
    return image.transform(image.size, Image.Transform.AFFINE, numbers, Image.Resampling.BILINEAR)


def _number(name: str, draws: Draws, side: int) -> float:
    """Of an operation at severity 1; a third of 22.4 pixels of 224 is moved at most, as a share of the side."""
    level, sign = draws.between("level", 0.1, 1.0), draws.choice("sign", (-1, 1))
    if name == "posterize":
        return 4 - int(0.4 * level)
    if name == "solarize":
        return 256 - int(25.6 * level)
    if name == "rotate":
        return sign * int(3 * level)
    if name.startswith("shear"):
        return sign * 0.03 * level
    return sign * int(7.47 * level * side / 224) / side if name.startswith("translate") else 0.0
