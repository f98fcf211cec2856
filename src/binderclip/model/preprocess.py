"""An upright RGB picture to the pixels a tower was trained on, with Pillow and numpy only.

Three ways to reach the tower's size are in use by published models:

- ``shortest``: the short side becomes the size, then the centre is cut out (OpenAI, most others);
- ``squash``: both sides become the size, the aspect is lost (SigLIP);
- ``longest``: the long side becomes the size, the rest is filled with ``fill``.

Then ``(x / 255 - mean) / std`` per channel. Resampling is Pillow's, anti-aliased, on 8-bit pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from binderclip.errors import InputError

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "OPENAI_MEAN", "OPENAI_STD", "Preprocess"]

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}
_MODES = ("shortest", "squash", "longest")
# A 30000x1 strip would become 6,720,000 pixels wide before its centre is cut out: crop such a strip first.
_MOST_ASPECT = 20


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop, normalise: one instance travels with each checkpoint.

    Args:
        size: side of the square the tower sees, in pixels.
        mean: per channel, on the 0..1 scale.
        std: per channel, on the 0..1 scale.
        interpolation: ``bicubic``, ``bilinear``, ``lanczos`` or ``nearest``.
        resize_mode: ``shortest``, ``squash`` or ``longest``.
        fill: grey level 0..255 of the bars that ``longest`` leaves.
        crop_pct: ``shortest`` resizes to ``size / crop_pct`` and cuts ``size`` out of it (timm's models).

    Example:
        >>> Preprocess(size=4)(Image.new("RGB", (8, 6), "red")).shape
        (4, 4, 3)
    """

    size: int = 224
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill: int = 0
    crop_pct: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", _triple(self.mean))
        object.__setattr__(self, "std", _triple(self.std))
        if self.interpolation not in _FILTERS:
            raise InputError(f"unknown interpolation {self.interpolation!r}: use one of {', '.join(_FILTERS)}")
        if self.resize_mode not in _MODES:
            raise InputError(f"unknown resize mode {self.resize_mode!r}: use one of {', '.join(_MODES)}")
        if self.size < 1:
            raise InputError(f"size is {self.size}: it must be at least 1 pixel")

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> Preprocess:
        """From the ``preprocess`` part of a checkpoint's config.

        Raises:
            InputError: a key that is no field.
        """
        unknown = set(config) - set(cls.__dataclass_fields__)
        if unknown:
            raise InputError(f"preprocess has no field {', '.join(sorted(unknown))}")
        return cls(**config)

    def to_dict(self) -> dict[str, Any]:
        """As ``from_dict`` takes it."""
        fields = asdict(self)
        return fields | {"mean": list(self.mean), "std": list(self.std)}

    @property
    def min_side(self) -> int:
        """The short side below which a decoder must not shrink a picture, in pixels."""
        return round(self.size / self.crop_pct)

    def __call__(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Pixels ``[size, size, 3]``, 8-bit RGB, of one upright picture."""
        image = image if image.mode == "RGB" else image.convert("RGB")
        if self.resize_mode == "squash":
            image = self._resize(image, (self.size, self.size))
        elif self.resize_mode == "shortest":
            image = self._shortest(image)
        else:
            image = self._longest(image)
        return np.asarray(image, dtype=np.uint8)

    def normalize(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """``[N, H, W, 3]`` 8-bit -> ``[N, 3, H, W]`` float32, ``(x / 255 - mean) / std``."""
        scale = (1.0 / (255.0 * np.array(self.std))).astype(np.float32)
        shift = (-np.array(self.mean) / np.array(self.std)).astype(np.float32)
        out = np.empty((pixels.shape[0], 3, *pixels.shape[1:3]), dtype=np.float32)
        for c in range(3):  # a channel at a time: three passes over contiguous memory beat one strided transpose
            np.multiply(pixels[..., c], scale[c], out=out[:, c], casting="unsafe")
            out[:, c] += shift[c]
        return out

    def _resize(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        return image if image.size == size else image.resize(size, _FILTERS[self.interpolation])

    def _shortest(self, image: Image.Image) -> Image.Image:
        image = _trim_strip(image)
        short = self.min_side
        width, height = image.size
        # Rounding as torchvision does: the long side is cut down to a whole pixel.
        if width <= height:
            image = self._resize(image, (short, max(int(short * height / width), 1)))
        else:
            image = self._resize(image, (max(int(short * width / height), 1), short))
        left, top = round((image.width - self.size) / 2.0), round((image.height - self.size) / 2.0)
        return image.crop((left, top, left + self.size, top + self.size))

    def _longest(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        scale = self.size / max(width, height)
        image = self._resize(image, (max(round(width * scale), 1), max(round(height * scale), 1)))
        canvas = Image.new("RGB", (self.size, self.size), (self.fill,) * 3)
        canvas.paste(image, ((self.size - image.width) // 2, (self.size - image.height) // 2))
        return canvas


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    a, b, c = values
    return float(a), float(b), float(c)


def _trim_strip(image: Image.Image) -> Image.Image:
    """Cut the middle out of a strip, so that no step holds more than some twenty times the tower's pixels."""
    width, height = image.size
    most = _MOST_ASPECT * min(width, height)
    if max(width, height) <= most:
        return image
    left, top = max((width - most) // 2, 0), max((height - most) // 2, 0)
    return image.crop((left, top, width - left, height - top))
