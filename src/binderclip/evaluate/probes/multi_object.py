"""First name and largest object, on one's own classes (CLIP-oscope, arXiv 2502.19842): one picture a class, composed."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from PIL import Image

from binderclip.data.hashing import hash64
from binderclip.data.media import open_image
from binderclip.errors import InputError
from binderclip.evaluate.base import Report
from binderclip.evaluate.clip_oscope import MultiObjectProbe
from binderclip.evaluate.composed import ComposedScenes
from binderclip.evaluate.data import Sets
from binderclip.evaluate.vectors import Vectors

__all__ = ["MultiObject"]

_FIRST = re.compile(r"tor_own|toc|ior_(big|chance)|itm")  # what the probe is for; the rest explains it


@dataclass(frozen=True)
class MultiObject:
    """What a model keeps of several objects: ``tor``, ``toc``, ``ior`` and ``itm`` of `MultiObjectProbe`.

    One picture a class, the one whose id has the lowest hash, is put on a canvas with those of other classes, each slot
    enlarged in turn. Pictures with one object and little ground, or cut-outs, say most.

    Args:
        scenes: composed pictures.
        slots: objects in each, and in the sentences of ``toc``.
        scale: how much longer the sides of the enlarged one are, 1 to 3.
        objects: names in the sentences of ``tor``.
        sentences: of ``tor``, at most so many combinations.
        turns: sentences of ``toc`` for each name.
        absent: objects tried for each picture of ``itm``.
        seed: of everything.
    """

    scenes: int = 100
    slots: int = 4
    scale: float = 2.0
    objects: int = 3
    sentences: int = 500
    turns: int = 20
    absent: int = 5
    seed: int = 0

    def run(self, vectors: Vectors, sets: Sets) -> Report:
        """Measure.

        Raises:
            InputError: no labels or names, pictures of fewer classes than slots and one, or no picture.
        """
        data, y = sets.test.labelled()
        if not data.named:
            raise InputError(f"the labels of {data.name} are numbers: give the class names, as in --labels classes.txt")
        sprites: dict[str, Image.Image] = {}
        for k, name in enumerate(data.classes):
            own = [item for item, label in zip(data.items, y, strict=True) if label == k and item.image is not None]
            if own:
                first = min(own, key=lambda item: hash64(self.seed, item.id))
                sprites[name.split("|")[0]] = open_image(first.image).image  # type: ignore[arg-type]
        if len(sprites) <= max(self.slots, self.objects):
            raise InputError(f"{data.name} has pictures of {len(sprites)} classes: this needs over {self.slots}")
        scenes = ComposedScenes(sprites, self.scenes, self.slots, None, self.scale, seed=self.seed)
        report = MultiObjectProbe(
            ("tor", "toc", "ior", "itm"),
            objects=self.objects,
            named=self.slots,
            sentences=self.sentences,
            turns=self.turns,
            absent=self.absent,
            seed=self.seed,
        ).run(vectors, scenes, data=data.name)
        rows = tuple({"scene": row["id"], **{k: v for k, v in row.items() if k != "id"}} for row in report.rows)
        notes = (f"one picture of each of {len(sprites)} classes, {self.slots} to a canvas",)
        numbers = tuple(sorted(report.metrics, key=lambda m: not _FIRST.match(m.name)))
        return replace(report, probe="multi-object", metrics=numbers, rows=rows, notes=notes)
