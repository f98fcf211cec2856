"""From pairs to the tensors of a step: views drawn and decoded in threads, captions chosen, texts tokenized.

Everything drawn is a function of (seed, row, epoch), so that a resumed run reads the very same numbers.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from binderclip.data.batch import Batch
from binderclip.data.hashing import Draws
from binderclip.data.media import open_image
from binderclip.data.pairs import Pair, Pairs
from binderclip.data.stream import Stream
from binderclip.data.transforms import Augment, RandAugment, View, ViewTransforms, preset
from binderclip.errors import InputError, MediaError
from binderclip.model.preprocess import Preprocess
from binderclip.model.tokenizer import Tokenizer
from binderclip.train.base import Objective, TrainBatch
from binderclip.train.parts.text import shorten_ids, shorten_words

__all__ = ["Reader", "Sample", "augment_of", "batch_of"]

CHOICES = ("random", "first")


@dataclass(frozen=True)
class Sample:
    """What a row becomes in the loader: pixels ``[S, S, 3]`` of each view, its texts, and the objective's own arrays."""

    pixels: tuple[NDArray[np.uint8], ...]
    crops: NDArray[np.int64]
    texts: tuple[str, ...]
    fields: Mapping[str, NDArray[Any]]


class Reader:
    """Batches for an objective, with the state of the stream behind each.

    Args:
        pairs: rows.
        objective: says which views, texts and fields it wants.
        preprocess: of the image tower; its size is the views'.
        tokenizer: of the text tower.
        batch_size: rows a step and process.
        seed: of order, views and captions.
        augment: of the plain view; None brings pictures to the tower's size as at test time.
        caption: "random", one of the row's captions a draw, or "first".
        cycle: epoch e draws the views of epoch e mod `cycle`, so that teachers' vectors can be kept.
        threads: that decode.
        text_length: most tokens of a text; None takes the tower's.
        text_how: how longer ones are cut: truncate, syntax (whole words by part of speech), random or block.
        rank: of this process.
        world: number of processes.
    """

    def __init__(
        self,
        pairs: Pairs,
        objective: Objective,
        preprocess: Preprocess,
        tokenizer: Tokenizer,
        batch_size: int,
        *,
        seed: int = 0,
        augment: Augment | None = None,
        caption: str = "random",
        cycle: int | None = None,
        threads: int = 2,
        text_length: int | None = None,
        text_how: str = "truncate",
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if caption not in CHOICES:
            raise InputError(f"caption is {caption!r}: use one of {', '.join(CHOICES)}")
        self.objective, self.preprocess, self.tokenizer = objective, preprocess, tokenizer
        self.seed, self.caption, self.cycle = seed, caption, cycle
        self.text_length, self.text_how = text_length, text_how
        bare = Augment(scale=(1.0, 1.0))
        wanted = objective.views(bare if augment is None else augment)
        self.plain = augment is None and list(wanted.values()) == [bare]
        self.transforms = ViewTransforms(wanted, seed=seed, cycle=cycle) if wanted else None
        self.stream = Stream(
            pairs,
            batch_size,
            seed=seed,
            load=self.load,
            need=objective.needs,
            threads=threads,
            rank=rank,
            world=world,
        )

    def load(self, pair: Pair, epoch: int) -> Sample:
        """One row; called in threads."""
        turn = epoch if self.cycle is None else epoch % self.cycle
        draws = Draws(self.seed, f"row/{pair.id}/{turn}")
        pixels, views = self._pixels(pair, epoch, draws)
        texts: tuple[str, ...] = ()
        if pair.captions:
            first = self.caption == "first" or len(pair.captions) == 1
            caption = pair.captions[0] if first else draws.choice("caption", pair.captions)
            texts = self.objective.texts(pair, draws, caption)
            if self.text_length is not None and self.text_how != "truncate":
                special = (self.tokenizer.start is not None) + (self.tokenizer.end is not None)
                words = self.text_length - special
                texts = tuple(
                    shorten_words(text, words, self.text_how, draws=draws.at(f"text {i}"))
                    for i, text in enumerate(texts)
                )
        crops = np.array([view.crop for view in views], np.int64).reshape(-1, 4)
        return Sample(pixels, crops, texts, self.objective.fields(pair, turn, views))

    def batches(self) -> Generator[tuple[TrainBatch, dict[str, Any]]]:
        """Batches and the state behind each, one put together ahead."""
        stream = iter(self.stream)

        def upcoming() -> tuple[TrainBatch, dict[str, Any]] | None:
            batch = next(stream, None)
            return None if batch is None else (self.collate(batch), self.stream.state_dict())

        with ThreadPoolExecutor(1, thread_name_prefix="binderclip-batch") as pool:
            coming = pool.submit(upcoming)
            try:
                while (found := coming.result()) is not None:
                    coming = pool.submit(upcoming)
                    yield found
            finally:
                wait([coming])
                getattr(stream, "close", lambda: None)()  # stops the stream's threads

    def collate(self, batch: Batch) -> TrainBatch:
        """Samples to tensors."""
        samples: tuple[Sample, ...] = batch.samples
        views = tuple(
            torch.from_numpy(self.preprocess.normalize(np.stack(view)))
            for view in zip(*(sample.pixels for sample in samples), strict=True)
        )
        return batch_of(
            views,
            [sample.texts for sample in samples],
            self.tokenizer,
            length=self.text_length,
            crops=torch.from_numpy(np.stack([sample.crops for sample in samples])),
            index=tuple(row.id for row in batch.rows),
            weights=torch.from_numpy(batch.weights),
            fields={
                name: torch.from_numpy(np.stack([sample.fields[name] for sample in samples]))
                for name in samples[0].fields
            },
        )

    def _pixels(self, pair: Pair, epoch: int, draws: Draws) -> tuple[tuple[NDArray[np.uint8], ...], tuple[View, ...]]:
        if self.transforms is None:  # an objective on texts or cached vectors alone
            return (), ()
        if pair.image is None:
            raise MediaError("no image")
        if self.plain:
            picture = open_image(pair.image, min_side=2 * self.preprocess.min_side)
            return (self.preprocess(picture.image),), ()
        picture = open_image(pair.image, min_side=self.transforms.min_side(self.preprocess))
        drawn = self.transforms.draw(pair.id, epoch, picture.width, picture.height, self.preprocess)
        views = self.objective.place(drawn, draws.at("place"))
        return tuple(np.asarray(view(picture.image), np.uint8) for view in views), views


def batch_of(
    views: tuple[Tensor, ...],
    texts: list[tuple[str, ...]],
    tokenizer: Tokenizer,
    *,
    length: int | None = None,
    **rest: Any,
) -> TrainBatch:
    """A batch from pixels and texts; a row's n-th text goes into ``ids[n]``, cut to ``length`` tokens."""
    ids, ends = [], []
    for column in zip(*texts, strict=True):
        tokens, eos = (torch.from_numpy(part) for part in tokenizer(column))
        if length is not None:
            bos, end = tokenizer.start is not None, tokenizer.end is not None
            tokens, eos = shorten_ids(tokens, eos, length, bos=bos, end=end)
        ids.append(tokens)
        ends.append(eos)
    rest.setdefault("index", tuple(str(i) for i in range(len(texts))))
    return TrainBatch(views, tuple(ids), tuple(ends), texts=tuple(texts), **rest)


def augment_of(spec: str | Mapping[str, Any] | None) -> Augment | None:
    """An augmentation from a recipe: None, "none", a preset's name, or a mapping of ``Augment``'s arguments.

    `randaugment` may be a mapping of its own arguments.

    Raises:
        InputError: an argument that there is not.
    """
    if spec is None or spec == "none":
        return None
    if isinstance(spec, str):
        return preset(spec)
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in spec.items()}
    try:
        if isinstance(given.get("randaugment"), Mapping):
            given["randaugment"] = RandAugment(**given["randaugment"])
        return Augment(**given)
    except TypeError as error:
        raise InputError(f"data.augment: {error}; see binderclip.data.transforms.Augment") from None
