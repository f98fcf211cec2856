"""A view of a picture as the record of what was done: apply it again, or carry boxes, masks and maps into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from binderclip.data.transforms.carry import Floats, flipping, moved_boxes, moved_map, scaling
from binderclip.data.transforms.operations import apply, matrix_of
from binderclip.errors import InputError

__all__ = ["CropBox", "View"]

_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}


class CropBox(NamedTuple):
    """What part of a picture was cut out, in its pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class View:
    """Cut out, resize to a square, flip, then operations in their order. The record is all that it needs.

    Args:
        name: of the view among those of a row.
        width: of the picture, in pixels.
        height: of the picture, in pixels.
        crop: in pixels of the picture.
        size: side of the view in pixels.
        flip: left and right are exchanged.
        steps: (operation, number), as in ("brightness", 1.2); see `operations.apply`.
        interpolation: "bicubic", "bilinear", "lanczos" or "nearest".

    Example:
        >>> view = View("a", 8, 6, CropBox(0, 2, 4, 4), 2, flip=True)
        >>> view.boxes([[2, 0, 4, 4]]).tolist()
        [[1.0, 0.0, 2.0, 2.0]]
    """

    name: str
    width: int
    height: int
    crop: CropBox
    size: int
    flip: bool = False
    steps: tuple[tuple[str, float], ...] = ()
    interpolation: str = "bicubic"

    def __call__(self, image: Image.Image) -> Image.Image:
        """The view [size x size] of the picture, RGB.

        The picture may have been decoded smaller (`open_image(..., min_side=...)`): the crop is scaled to it. At the rim
        of the crop the filter of the resize reads the picture beyond it, as far as its support goes.
        """
        x, y = image.width / self.width, image.height / self.height
        top, left, height, width = self.crop
        box = (left * x, top * y, min((left + width) * x, image.width), min((top + height) * y, image.height))
        image = image if image.mode == "RGB" else image.convert("RGB")
        out = image.resize((self.size, self.size), _FILTERS[self.interpolation], box=box)
        if self.flip:
            out = out.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for name, value in self.steps:
            out = apply(out, name, value)
        return out

    @cached_property
    def matrix(self) -> Floats:
        """From pixels of the picture to pixels of the view [3, 3]."""
        top, left, height, width = self.crop
        matrix = scaling(left, top, self.size / width, self.size / height)
        if self.flip:
            matrix = flipping(self.size) @ matrix
        for name, value in self.steps:
            matrix = matrix_of(name, value, self.size, self.size) @ matrix
        return matrix

    def to(self, other: View) -> Floats:
        """From pixels of this view to pixels of another view of the same picture [3, 3].

        Raises:
            InputError: the other view is of a picture of another size.
        """
        if (self.width, self.height) != (other.width, other.height):
            raise InputError(f"views {self.name} and {other.name} are of different pictures: carry within one row")
        return other.matrix @ np.linalg.inv(self.matrix)

    def boxes(self, boxes: ArrayLike) -> Floats:
        """Boxes [K, 4] of the picture (x0, y0, x1, y1) in pixels of the view, cut to it; without area when not in it."""
        return moved_boxes(boxes, self.matrix, self.size, self.size)

    def masks(self, masks: ArrayLike) -> NDArray[Any]:
        """Masks [..., H, W] of the picture as masks [..., size, size] of the view, what is at each pixel's centre."""
        return self._carried(masks, (self.size, self.size), nearest=True)

    def map(self, values: ArrayLike, grid: tuple[int, int]) -> NDArray[Any]:
        """A map [..., h, w] over the whole picture, such as attention, on a grid (h', w') of the view; bilinear."""
        return self._carried(values, grid, nearest=False)

    def map_to(self, other: View, values: ArrayLike, grid: tuple[int, int]) -> NDArray[Any]:
        """A map [..., h, w] over this view on a grid (h', w') of another; 0 where this view saw nothing."""
        here, there = (self.size, self.size), (other.size, other.size)
        return moved_map(values, self.to(other), here, there, grid)

    def _carried(self, values: ArrayLike, grid: tuple[int, int], *, nearest: bool) -> NDArray[Any]:
        extent = (self.width, self.height)
        return moved_map(values, self.matrix, extent, (self.size, self.size), grid, nearest=nearest)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, as `from_dict` takes it."""
        return asdict(self) | {"crop": list(self.crop), "steps": [list(step) for step in self.steps]}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> View:
        """A view that was kept as JSON.

        Raises:
            InputError: a key that is no field, or one that is missing.
        """
        try:
            steps = tuple((str(name), float(value)) for name, value in record["steps"])
            return cls(**{**record, "crop": CropBox(*record["crop"]), "steps": steps})
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"this is no record of a view ({error}): use what View.to_dict wrote") from None
