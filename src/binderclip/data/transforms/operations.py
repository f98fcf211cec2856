"""What can be done to a picture, each a function of the picture and one number: with the number it can be repeated.

Colours keep every pixel where it is; `MOVES` move pixels and give the matrix by which they do. Brightness, contrast and
saturation are blends b + f (x - b) of the picture x with a baseline b, f = 1 changing nothing: black, the mean grey, the
picture's own grey. Grey is ITU-R 601's luma, as in Pillow.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from binderclip.data.transforms.carry import Floats, linear_about, scaling
from binderclip.errors import UnknownNameError

__all__ = ["COLOURS", "MOVES", "apply", "matrix_of"]

_FILL = (128, 128, 128)  # where a move leaves nothing
_ACROSS = np.array([[0.0, 1.0], [0.0, 0.0]])


def _hue(image: Image.Image, turn: float) -> Image.Image:
    """Turn the hue by a share of the circle, value and saturation kept; exact, where Pillow's HSV has 8 bits."""
    if turn % 1 == 0:
        return image
    r, g, b = (np.asarray(channel, np.float32) for channel in image.split())  # contiguous [H, W]
    value = np.maximum(np.maximum(r, g), b)
    chroma = value - np.minimum(np.minimum(r, g), b)
    by = 1 / np.maximum(chroma, 1)  # of a grey pixel any hue will do
    sixth = np.where(value == r, (g - b) * by, np.where(value == g, 2 + (b - r) * by, 4 + (r - g) * by))
    sixth += np.float32(6 * turn)  # hue in sixths of the circle
    out = np.empty((*value.shape, 3), np.uint8)
    for channel, own in enumerate((0, 2, 4)):
        # How far round the circle the channel's own hue is: up to 1 it is at its most, from 2 on at its least.
        far = sixth - np.float32(own)
        far -= 6 * np.rint(far * np.float32(1 / 6))
        out[..., channel] = value - chroma * np.clip(np.abs(far) - 1, 0, 1) + np.float32(0.5)
    return Image.fromarray(out)


def _grey(image: Image.Image, _: float) -> Image.Image:
    return image.convert("L").convert("RGB")


def _blur(image: Image.Image, sigma: float) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(sigma)) if sigma > 0 else image


def _contrast(image: Image.Image, factor: float) -> Image.Image:
    return image if factor == 1 else ImageEnhance.Contrast(image).enhance(factor)


def _solarise(image: Image.Image, threshold: float) -> Image.Image:
    """Invert what is at least as bright as the threshold; 256 inverts nothing."""
    return ImageOps.solarize(image, round(threshold))


#: Name -> (picture, number) -> picture.
COLOURS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "brightness": lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    "contrast": _contrast,
    "saturation": lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    "sharpness": lambda image, factor: ImageEnhance.Sharpness(image).enhance(factor),
    "hue": _hue,
    "grey": _grey,
    "blur": _blur,
    "identity": lambda image, _: image,
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "solarize": _solarise,
    "posterize": lambda image, bits: ImageOps.posterize(image, round(bits)),
}


def _rotation(degrees: float) -> Floats:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cos, -sin], [sin, cos]])


#: Name -> (number, width, height) -> matrix [3, 3] from where a point is to where it goes. Rotation is in degrees to the
#: right, shear in widths per height (or the reverse), translation in shares of the side.
MOVES: dict[str, Callable[[float, float, float], Floats]] = {
    "rotate": lambda degrees, width, height: linear_about(_rotation(degrees), width / 2, height / 2),
    "shear_x": lambda shear, width, height: linear_about(np.eye(2) + shear * _ACROSS, width / 2, height / 2),
    "shear_y": lambda shear, width, height: linear_about(np.eye(2) + shear * _ACROSS.T, width / 2, height / 2),
    "translate_x": lambda share, width, _: scaling(-share * width, 0, 1, 1),
    "translate_y": lambda share, _, height: scaling(0, -share * height, 1, 1),
}


def matrix_of(name: str, value: float, width: float, height: float) -> Floats:
    """How an operation moves the points of a frame: [3, 3], the identity for colours."""
    return MOVES[name](value, width, height) if name in MOVES else np.eye(3)


def apply(image: Image.Image, name: str, value: float) -> Image.Image:
    """One operation on an RGB picture; the size stays.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name in COLOURS:
        return COLOURS[name](image, value)
    if name not in MOVES:
        raise UnknownNameError(f"no operation {name!r}: use one of {', '.join([*COLOURS, *MOVES])}")
    if value == 0:
        return image
    back = np.linalg.inv(matrix_of(name, value, image.width, image.height))  # Pillow asks where each pixel comes from
    coefficients = tuple(float(number) for number in back[:2].ravel())
    return image.transform(image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR, fillcolor=_FILL)
