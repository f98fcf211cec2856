"""Sentences around a class name: a CLIP knows captions, not bare labels (Radford et al. 2021, arXiv 2103.00020, 3.1.4).

A class vector is the mean of the unit vectors of its sentences, made unit again: the ensemble is taken in the joint space,
so it costs nothing at classification time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from binderclip.errors import InputError, UnknownNameError

__all__ = ["TEMPLATES", "class_vectors", "fill", "templates"]

Floats = npt.NDArray[np.float32]

#: Named sets of templates; ``{}`` is the class name.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "plain": ("{}",),
    "photo": ("a photo of a {}.",),
    "photos": (
        "a photo of a {}.",
        "a photo of the {}.",
        "a close-up photo of a {}.",
        "a bright photo of a {}.",
        "a blurry photo of a {}.",
        "a photo of a small {}.",
        "a photo of a large {}.",
        "a picture with a {} in it.",
        "{}",
    ),
    "drawings": (
        "a drawing of a {}.",
        "a painting of a {}.",
        "a sketch of the {}.",
        "clip art of a {}.",
        "an icon of a {}.",
    ),
    "scenes": ("a photo of a {}.", "a place called {}.", "a view of the {}.", "the {} seen from outside."),
    "textures": ("a {} texture.", "a {} surface.", "a photo of something {}."),
    "actions": ("a photo of a person {}.", "somebody {}.", "people {} outdoors."),
}


class TextEncoder(Protocol):
    """Anything with ``encode_text``: an ``binderclip.Encoder``, or a wrapper around a module."""

    def encode_text(self, texts: Sequence[str]) -> Any:
        """Unit rows ``[N, D]``."""
        ...


def templates(which: str | Sequence[str]) -> tuple[str, ...]:
    """A named set, or one's own sentences.

    Raises:
        UnknownNameError: no set of that name.
        InputError: a sentence without ``{}``.
    """
    if isinstance(which, str):
        if "{}" in which:
            return (which,)
        if which not in TEMPLATES:
            raise UnknownNameError(
                f"no templates are called {which!r}: use {', '.join(TEMPLATES)}, or a text with {{}}"
            )
        return TEMPLATES[which]
    for text in which:
        if "{}" not in text:
            raise InputError(f"the template {text!r} has no {{}} where the class name goes")
    return tuple(which)


def fill(template: str, name: str) -> str:
    """Put a class name into a template, with ``an`` in front of a vowel.

    Example:
        >>> fill("a photo of a {}.", "ice bear")
        'a photo of an ice bear.'
    """
    if name[:1].lower() in set("aeiou"):
        template = template.replace(" a {}", " an {}")
    return template.replace("{}", name)


def class_vectors(encoder: TextEncoder, names: Sequence[str], which: str | Sequence[str] = "photos") -> Floats:
    """Unit class vectors ``[T, D]`` of ``T`` names, each the mean over templates.

    A name may list synonyms behind bars (``"car|automobile"``): all of them count alike.

    Raises:
        InputError: no names, an empty one, or one given twice.
    """
    check_names(names)
    sentences = templates(which)
    texts, owner = [], []
    for row, name in enumerate(names):
        for synonym in name.split("|"):
            texts += [fill(sentence, synonym.strip()) for sentence in sentences]
            owner += [row] * len(sentences)
    unit = np.asarray(encoder.encode_text(texts), dtype=np.float32)  # [sum of sentences, D]
    total = np.zeros((len(names), unit.shape[1]), np.float32)
    np.add.at(total, owner, unit)
    total /= np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)
    return total


def check_names(names: Sequence[str]) -> None:
    """Raise InputError unless there are class names, none empty and none twice."""
    if isinstance(names, str) or not names:
        raise InputError("name at least one class, as in --labels 'cat,dog,sofa'")
    if any(not name.strip() for name in names):
        raise InputError("a class name is empty: remove it")
    twice = sorted({name for name in names if list(names).count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise InputError(f"a class name is given twice: {twice[0]!r}")
