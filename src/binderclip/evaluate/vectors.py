"""The vectors of one model: every picture and every text is encoded once, however many probes ask for it."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from binderclip.data.embeddings import Embeddings
from binderclip.data.media import open_image
from binderclip.data.templates import class_vectors
from binderclip.errors import InputError, MediaError
from binderclip.evaluate.data import Dataset, Item

__all__ = ["EncoderLike", "Vectors"]

Floats = NDArray[np.float32]
BATCH = 64


class EncoderLike(Protocol):
    """An :class:`~binderclip.Encoder`, or anything with its two methods."""

    def encode_image(self, images: Sequence[Any]) -> Any:
        """Unit rows ``[N, D]`` of paths, file contents or Pillow images."""
        ...

    def encode_text(self, texts: Sequence[str]) -> Any:
        """Unit rows ``[N, D]``."""
        ...


class Vectors:
    """Vectors by picture and by text, made when first asked for and kept.

    Args:
        encoder: the model; None where vectors of pictures are given and no text is asked for.
        images: vectors of pictures that are there already, by item id; those are not encoded.
        batch: pictures at a time.
        on_progress: told (done, total) of pictures while they are encoded.

    Attributes:
        name: of the model.
        fingerprint: of the model; empty where it has none.
        scale: the model's own factor on cosines, 100 where unsaid.
    """

    def __init__(
        self,
        encoder: EncoderLike | None,
        *,
        images: Embeddings | None = None,
        batch: int = BATCH,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.encoder, self.batch, self.on_progress = encoder, batch, on_progress
        self.fingerprint = str(getattr(encoder, "fingerprint", images.fingerprint if images is not None else ""))
        unnamed = type(encoder).__name__ if encoder is not None else f"vectors of {self.fingerprint or 'some model'}"
        self.name = str(getattr(encoder, "name", unnamed))
        self.scale = float(getattr(encoder, "logit_scale", 100.0))
        self._given = images
        self._images: dict[str, Floats] = {}
        self._texts: dict[str, Floats] = {}
        self._bad: dict[str, str] = {}
        if images is not None and images.fingerprint and self.fingerprint and images.fingerprint != self.fingerprint:
            raise InputError(f"the vectors were made by another model than {self.name}: encode the pictures again")

    def images(self, items: Sequence[Item]) -> Floats:
        """Unit rows ``[N, D]`` of the pictures of items.

        Raises:
            MediaError: one of them cannot be decoded.
        """
        self._encode(items)
        lost = next((item for item in items if item.key in self._bad), None)
        if lost is not None:
            raise MediaError(f"{lost.id}: {self._bad[lost.key]}")
        if not items:
            raise InputError("there are no pictures to measure: give at least one")
        return np.stack([self._vector(item) for item in items])

    def readable(self, data: Dataset) -> Dataset:
        """The data without the pictures that cannot be decoded; those are named in its `bad`.

        Raises:
            InputError: none can be.
        """
        self._encode(data.items)
        bad = {item.id: self._bad[item.key] for item in data.items if item.key in self._bad}
        kept = data.select([item.id not in bad for item in data.items])
        if not kept.items:
            first = f": {next(iter(bad.items()))[1]}" if bad else ""
            raise InputError(f"no picture of {data.name} can be read{first}")
        return replace(kept, bad={**data.bad, **bad})

    def texts(self, texts: Sequence[str]) -> Floats:
        """Unit rows ``[N, D]`` of texts."""
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        if new:
            self._texts.update(zip(new, np.asarray(self._model().encode_text(new), np.float32), strict=True))
        if not texts:
            raise InputError("there are no texts to measure: give at least one")
        return np.stack([self._texts[text] for text in texts])

    def encode_text(self, texts: Sequence[str]) -> Floats:
        """The same, under the name that template code asks for."""
        return self.texts(texts)

    def classes(self, data: Dataset, templates: str | Sequence[str]) -> Floats:
        """Unit class vectors ``[K, D]``: the mean over templates, made unit again.

        Raises:
            InputError: the classes have numbers and no names.
        """
        if not data.named:
            raise InputError(f"the labels of {data.name} are numbers: give the class names, as in --labels classes.txt")
        return class_vectors(self, data.classes, templates)

    def picture(self, item: Item) -> Image.Image:
        """The picture as the model's preprocessing crops it, 8 bits, before normalisation.

        Raises:
            InputError: only its vector is known.
        """
        if item.image is None:
            raise InputError(f"{item.id} has no picture, only a vector: this probe needs pictures")
        image = open_image(_source(item)).image
        crop = getattr(self.encoder, "pixels", None)
        return Image.fromarray(crop(image)) if crop is not None else image.resize((224, 224), Image.Resampling.BICUBIC)

    def of_pictures(self, pictures: Sequence[Image.Image]) -> Floats:
        """Unit rows ``[N, D]`` of pictures that :meth:`picture` gave and a probe changed; not kept."""
        direct = getattr(self.encoder, "encode_pixels", None)
        if direct is not None:
            return np.asarray(direct(np.stack([np.asarray(one) for one in pictures])), np.float32)
        return np.asarray(self._model().encode_image(list(pictures)), np.float32)

    def facts(self) -> Mapping[str, Any]:
        """What settings record of the model."""
        return {"fingerprint": self.fingerprint or self.name, "logit_scale": self.scale}

    def _model(self) -> EncoderLike:
        if self.encoder is None:
            raise InputError("only vectors of pictures are here: this needs the model that made them")
        return self.encoder

    def _vector(self, item: Item) -> Floats:
        if self._given is not None and item.id in self._given:
            return self._given.vector(item.id)
        return self._images[item.key]

    def _encode(self, items: Sequence[Item]) -> None:
        waiting = {
            item.key: item
            for item in items
            if item.key not in self._images
            and item.key not in self._bad
            and not (self._given is not None and item.id in self._given)
        }
        new = list(waiting.values())
        for start in range(0, len(new), self.batch):
            part = new[start : start + self.batch]
            try:
                self._keep(part)
            except MediaError:
                for item in part:  # one of them is bad: find out which
                    try:
                        self._keep([item])
                    except MediaError as error:
                        self._bad[item.key] = str(error)
            if self.on_progress is not None:
                self.on_progress(min(start + self.batch, len(new)), len(new))

    def _keep(self, items: Sequence[Item]) -> None:
        for item in items:
            if item.image is None:
                raise MediaError("has neither a picture nor a vector")
        rows = np.asarray(self._model().encode_image([_source(item) for item in items]), np.float32)
        self._images.update(zip([item.key for item in items], rows, strict=True))


def _source(item: Item) -> Any:
    return str(item.image) if isinstance(item.image, Path) else item.image


def thumbnail(item: Item, side: int = 240) -> bytes | None:
    """A small JPEG of an item's picture, or None where there is none."""
    if item.image is None:
        return None
    try:
        image = open_image(_source(item), min_side=side).image
    except MediaError:
        return None
    image.thumbnail((side, side))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return out.getvalue()
