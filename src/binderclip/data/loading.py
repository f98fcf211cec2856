"""What a stream does with a row in its threads: decode the picture, and bring it to the tower's size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from binderclip.data.media import open_image
from binderclip.data.pairs import Pair
from binderclip.errors import MediaError
from binderclip.model.preprocess import Preprocess

__all__ = ["Load", "load_image", "load_pixels"]

#: (pair, epoch) -> sample. With the epoch and the pair's id an augmentation can be drawn by hashing, and replayed.
Load = Callable[[Pair, int], Any]


def load_image(pair: Pair, epoch: int) -> Image.Image:
    """The picture, upright, RGB, in full.

    Raises:
        MediaError: there is none, or it cannot be decoded.
    """
    if pair.image is None:
        raise MediaError("no image")
    return open_image(pair.image).image


def load_pixels(preprocess: Preprocess, *, draft: float | None = 2.0) -> Callable[[Pair, int], NDArray[np.uint8]]:
    """A loader of pixels [S, S, 3], 8-bit RGB, as a tower sees them before normalisation.

    Args:
        preprocess: of the tower.
        draft: a JPEG may be decoded smaller, down to this many times the side that is needed; None decodes in full.
    """
    side = None if draft is None else round(draft * preprocess.min_side)

    def load(pair: Pair, epoch: int) -> NDArray[np.uint8]:
        if pair.image is None:
            raise MediaError("no image")
        return preprocess(open_image(pair.image, min_side=side).image)

    return load
