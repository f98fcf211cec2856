"""Scenes with known masks for the benchmarks of the room `dense`, and the small CLIP they are segmented with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from binderclip.data.scenes import SceneSpec, scene
from binderclip.evaluate.metrics.segmentation import IGNORE, confusion_of_pixels, mean_iou

#: As the small CLIP saw them (32 pixels), from the half it was not trained on.
SPEC = SceneSpec(
    size=32,
    objects=(2, 2),
    alike=0,
    textures=("plain",),
    sizes=("medium", "large"),
    split="test",
    shapes=("circle", "square", "star", "cross"),
    colours=("red", "green", "blue", "yellow"),
)
#: Every kind of thing in them.
KINDS = [f"{colour} {shape}" for colour in SPEC.colours for shape in SPEC.shapes]


def truths(count: int, spec: SceneSpec = SPEC) -> Iterator[tuple[Tensor, NDArray[np.int64], list[str]]]:
    """Picture ``[3, H, W]`` in [0, 1], labels ``[H, W]`` (IGNORE outside of all objects) and the names in it."""
    for i in range(count):
        one = scene(i, spec)
        names = list(dict.fromkeys(" ".join(thing.kind) for thing in one.layout.things))
        marks = np.full(one.masks.shape[1:], IGNORE, np.int64)
        for thing, mask in zip(one.layout.things, one.masks, strict=True):
            marks[mask] = names.index(" ".join(thing.kind))
        yield torch.from_numpy(np.array(one.image)).permute(2, 0, 1).float() / 255, marks, names


def miou(
    segmenter: Any, vocabulary: Sequence[str], rows: Sequence[tuple[Tensor, NDArray[np.int64], list[str]]]
) -> float:
    """Over the pixels of objects, with every name of the vocabulary asked for at once."""
    K = np.zeros((len(vocabulary), len(vocabulary)), np.int64)
    for image, marks, names in rows:
        at = np.array([vocabulary.index(name) for name in names])
        truth = np.where(marks == IGNORE, IGNORE, at[np.minimum(marks, len(at) - 1)])
        K += confusion_of_pixels(truth, segmenter.segment(image, vocabulary).argmax(0).numpy(), len(vocabulary))
    return mean_iou(K)
