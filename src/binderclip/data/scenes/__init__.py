"""Synthetic scenes whose truth is known: objects with masks, boxes, attributes, counts, relations and order.

Scene i of a `SceneSpec` is a function of the spec and i, by hashing: the same in any order and on any machine, pixels
to the last bit of its sine.
"""

from __future__ import annotations

from binderclip.data.scenes.captions import Caption, Foil, captions, foils
from binderclip.data.scenes.drawing import draw
from binderclip.data.scenes.layout import Layout, Thing, Word, lay_out
from binderclip.data.scenes.pairs import ScenePairs
from binderclip.data.scenes.scene import Scene, render, scene
from binderclip.data.scenes.spec import SceneSpec

__all__ = [
    "Caption",
    "Foil",
    "Layout",
    "Scene",
    "ScenePairs",
    "SceneSpec",
    "Thing",
    "Word",
    "captions",
    "draw",
    "foils",
    "lay_out",
    "render",
    "scene",
]
