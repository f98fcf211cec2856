"""Image augmentations that can be replayed: numpy and Pillow, every number drawn by hashing and kept in the `View`."""

from __future__ import annotations

from binderclip.data.transforms.augment import Augment, draw_crop
from binderclip.data.transforms.carry import moved_boxes, moved_map
from binderclip.data.transforms.operations import apply, matrix_of
from binderclip.data.transforms.randaugment import OPERATIONS, RandAugment
from binderclip.data.transforms.view import CropBox, View
from binderclip.data.transforms.views import PRESETS, Views, ViewTransforms, load_views, multi_crop, preset

__all__ = [
    "OPERATIONS",
    "PRESETS",
    "Augment",
    "CropBox",
    "RandAugment",
    "View",
    "ViewTransforms",
    "Views",
    "apply",
    "draw_crop",
    "load_views",
    "matrix_of",
    "moved_boxes",
    "moved_map",
    "multi_crop",
    "preset",
]
