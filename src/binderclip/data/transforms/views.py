"""One decode, V views out, each a function of (seed, row id, epoch, name of the view)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from binderclip.data.hashing import Draws
from binderclip.data.media import open_image
from binderclip.data.pairs import Pair
from binderclip.data.transforms.augment import Augment
from binderclip.data.transforms.view import View
from binderclip.errors import InputError, MediaError, UnknownNameError
from binderclip.model.preprocess import Preprocess

__all__ = ["PRESETS", "ViewTransforms", "Views", "load_views", "multi_crop", "preset"]

_MOCO = Augment(scale=(0.2, 1.0), flip=0.5, jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8, grey=0.2, blur=0.5)
#: CLIP-style training's crop; MoCo v2 (Chen et al. 2020, arXiv 2003.04297); SLIP (Mu et al. 2021, arXiv 2112.12750).
PRESETS: dict[str, Augment] = {"clip": Augment(), "mocov2": _MOCO, "slip": replace(_MOCO, scale=(0.08, 1.0))}


def preset(name: str) -> Augment:
    """An augmentation by its name: "clip", "mocov2" or "slip".

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name not in PRESETS:
        raise UnknownNameError(f"no augmentation {name!r}: use one of {', '.join(PRESETS)}")
    return PRESETS[name]


class ViewTransforms:
    """A named list of augmentations: which views of a row there are.

    Args:
        views: name -> augmentation, or the name of a preset. Views of the same augmentation and other names differ.
        seed: of all draws.
        cycle: epoch e gets the views of epoch e mod `cycle`, so that a teacher's vectors of `cycle` views a row can be
            kept (MobileCLIP's reinforced data set); None never repeats.

    Raises:
        InputError: no views, or a cycle under 1.

    Example:
        >>> transforms = ViewTransforms({"a": "slip", "b": "slip"})
        >>> a, b = transforms.draw("row 7", 0, 640, 480, Preprocess(size=64))
        >>> a == transforms.draw("row 7", 0, 640, 480, Preprocess(size=64))[0], a.crop == b.crop
        (True, False)
    """

    def __init__(self, views: Mapping[str, Augment | str], *, seed: int = 0, cycle: int | None = None) -> None:
        if not views or (cycle is not None and cycle < 1):
            raise InputError(f"{len(views)} views, cycle {cycle}: give at least one view, and a cycle of at least 1")
        self.views = {name: preset(view) if isinstance(view, str) else view for name, view in views.items()}
        self.seed, self.cycle = seed, cycle

    def __len__(self) -> int:
        return len(self.views)

    def draw(self, id: str, epoch: int, width: int, height: int, preprocess: Preprocess) -> tuple[View, ...]:
        """The views of a row in an epoch, without touching a pixel.

        Args:
            id: of the row.
            epoch: counted from 0.
            width: of the picture in pixels.
            height: of the picture in pixels.
            preprocess: of the tower; its size and interpolation hold where an augmentation names none.
        """
        turn = epoch if self.cycle is None else epoch % self.cycle
        size, interpolation = preprocess.size, preprocess.interpolation
        return tuple(
            augment.draw(
                Draws(self.seed, f"view/{id}/{turn}/{name}"),
                name,
                width,
                height,
                size=size,
                interpolation=interpolation,
            )
            for name, augment in self.views.items()
        )

    def min_side(self, preprocess: Preprocess) -> int:
        """Short side, in pixels, to which a picture may be decoded smaller and the smallest crop is not enlarged by it."""
        return max(
            int(np.ceil((augment.size or preprocess.size) / augment.scale[0] ** 0.5)) for augment in self.views.values()
        )


@dataclass(frozen=True)
class Views:
    """The views of a row.

    Args:
        records: what was done, in the order of the transforms.
        groups: normalised pixels [V, 3, S, S] float32 of the views of each size, in order of first appearance.
    """

    records: tuple[View, ...]
    groups: tuple[NDArray[np.float32], ...]

    @property
    def pixels(self) -> NDArray[np.float32]:
        """All views [V, 3, S, S].

        Raises:
            InputError: they are of several sizes.
        """
        if len(self.groups) != 1:
            raise InputError(f"the views are of {len(self.groups)} sizes: use groups, one array a size")
        return self.groups[0]


def load_views(
    transforms: ViewTransforms, preprocess: Preprocess, *, draft: bool = True
) -> Callable[[Pair, int], Views]:
    """A loader for `Stream(load=...)`: decode once, draw the views, normalise as the tower wants.

    Args:
        transforms: which views.
        preprocess: of the tower: size, interpolation, mean and deviation. Its resize mode has no part in it.
        draft: a JPEG may be decoded smaller, as far as no crop loses by it.
    """
    side = transforms.min_side(preprocess) if draft else None

    def load(pair: Pair, epoch: int) -> Views:
        if pair.image is None:
            raise MediaError("no image")
        picture = open_image(pair.image, min_side=side)
        records = transforms.draw(pair.id, epoch, picture.width, picture.height, preprocess)
        return Views(records, _normalised(picture.image, records, preprocess))

    return load


def multi_crop(
    whole: Augment | str = "mocov2",
    *,
    count: int = 2,
    local: int = 6,
    local_size: int = 96,
    local_scale: tuple[float, float] = (0.05, 0.4),
    whole_scale: tuple[float, float] = (0.4, 1.0),
) -> dict[str, Augment]:
    """Multi-crop (SwAV, Caron et al. 2020, arXiv 2006.09882): few large views and many small ones, for `ViewTransforms`.

    Args:
        whole: augmentation of both kinds, but for size and scale.
        count: large views, of the tower's size.
        local: small views.
        local_size: their side in pixels; the paper and DINO take 96 beside 224.
        local_scale: share of the picture's area they show (DINO's).
        whole_scale: share of the picture's area that large views show (DINO's).
    """
    base = preset(whole) if isinstance(whole, str) else whole
    views = {f"global {i}": replace(base, scale=whole_scale) for i in range(count)}
    return views | {f"local {i}": replace(base, scale=local_scale, size=local_size) for i in range(local)}


def _normalised(image: Image.Image, records: Sequence[View], preprocess: Preprocess) -> tuple[NDArray[np.float32], ...]:
    by_size: dict[int, list[NDArray[np.uint8]]] = {}
    for record in records:
        by_size.setdefault(record.size, []).append(np.asarray(record(image), np.uint8))
    return tuple(preprocess.normalize(np.stack(pixels)) for pixels in by_size.values())
