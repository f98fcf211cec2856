"""Texts and pictures of requests to unit vectors, through one lane each to the model."""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from binderclip.errors import InputError, MediaError
from binderclip.search.serving.batching import Batcher
from binderclip.search.serving.failures import named
from binderclip.search.serving.fetching import fetch
from binderclip.search.serving.options import Options
from binderclip.search.serving.pictures import WEB, model_input, picture_bytes
from binderclip.search.types import EncoderLike, FloatArray, Pixels

__all__ = ["Engine", "Picture"]

T = TypeVar("T")
_REMEMBERED = 4096  # texts whose vectors are kept: a search as it is typed asks for the same ones again and again
_FEW = 2000  # characters that are counted faster than a thread is woken
_AT_ONCE = 32  # inputs of one request at work: a long list does not keep a short question waiting


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of a request: the bytes of a file, base64, a data address, or (where allowed) an address on the web."""

    data: bytes | str


class Engine:
    """The encoder behind its queues.

    Args:
        encoder: of the model that is served.
        options: the limits.
        on_batch: called with (lane, size) of each batch.
    """

    def __init__(
        self, encoder: EncoderLike, options: Options, on_batch: Callable[[str, int], None] | None = None
    ) -> None:
        told = on_batch or (lambda lane, size: None)
        self.encoder, self.options = encoder, options
        self.texts: Batcher[str] = Batcher(
            "texts",
            lambda texts: encoder.encode_text(texts),
            rows=options.batch_rows,
            cost=options.batch_tokens,
            limit=options.queue,
            on_batch=lambda size: told("texts", size),
        )
        self.pictures: Batcher[Pixels] = Batcher(
            "pictures",
            lambda pixels: encoder.encode_pixels(np.stack(pixels)),
            rows=options.batch_rows,
            cost=options.batch_pixels,
            limit=options.queue,
            threads=min(2, os.cpu_count() or 1),
            on_batch=lambda size: told("pictures", size),
        )
        # A queue for each kind of work: nobody's search waits for somebody's page of thumbnails.
        count = max(os.cpu_count() or 1, 2)
        self._pools = {kind: ThreadPoolExecutor(count, f"binderclip-{kind}") for kind in ("decode", "search", "files")}
        self._known: OrderedDict[str, FloatArray] = OrderedDict()

    async def encode(
        self, inputs: Sequence[str | Picture], counts: Sequence[int] | None = None
    ) -> list[FloatArray | Exception]:
        """The unit vector [D] of each input, or the error of that input alone.

        Args:
            inputs: texts and pictures.
            counts: tokens of each text, from `count`, where they are known.

        Raises:
            ApiError: there is no room in the queue, or the server is stopping.
        """
        texts = sum(isinstance(one, str) for one in inputs)
        with self.texts.admit(texts), self.pictures.admit(len(inputs) - texts):
            ahead = iter(await self.count(inputs) if counts is None else counts)
            gate = asyncio.Semaphore(_AT_ONCE)
            jobs = [
                _within(gate, self._text(one, next(ahead)) if isinstance(one, str) else self._picture(one))
                for one in inputs
            ]
            found = await asyncio.gather(*jobs, return_exceptions=True)
        for one in found:
            if isinstance(one, BaseException) and not isinstance(one, Exception):
                raise one
        return [one for one in found if not isinstance(one, BaseException) or isinstance(one, Exception)]

    async def vectors(
        self, inputs: Sequence[str | Picture], param: str = "input", counts: Sequence[int] | None = None
    ) -> FloatArray:
        """Unit rows [N, D] of inputs.

        Raises:
            ApiError: naming the first input that cannot be encoded.
        """
        found = await self.encode(inputs, counts)
        rows: list[FloatArray] = []
        for i, one in enumerate(found):
            if isinstance(one, Exception):
                raise named(one, f"{param}[{i}]")
            rows.append(one)
        return np.stack(rows)

    async def work(self, function: Callable[..., T], *arguments: Any, kind: str = "decode") -> T:
        """A function's result, computed in a thread beside the event loop; `kind`: decode, search or files."""
        return await asyncio.get_running_loop().run_in_executor(self._pools[kind], function, *arguments)

    async def count(self, inputs: Sequence[str | Picture]) -> list[int]:
        """`tokens` of the texts among inputs, beside the event loop when there is much to count."""
        texts = [one for one in inputs if isinstance(one, str)]
        few = sum(len(text) for text in texts) < _FEW
        return self.tokens(texts) if few else await self.work(self.tokens, texts)

    def tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has; the model reads the first `context` of them.

        Raises:
            InputError: a text is longer than may be.
        """
        tokenizer = getattr(self.encoder, "tokenizer", None)
        for text in texts:
            if len(text) > self.options.max_text:
                raise InputError(f"a text has {len(text):,} characters: at most {self.options.max_text:,} are read")
        if tokenizer is None:
            return [len(text) // 4 + 2 for text in texts]
        return [len(tokenizer.encode(text)) + 2 for text in texts]

    @property
    def context(self) -> int:
        """Most tokens of a text that the model reads."""
        return int(getattr(getattr(self.encoder, "tokenizer", None), "context_length", 1 << 30))

    async def check(self) -> None:
        """Encodes a text and a picture, for good; raises when that fails."""
        side = max(self.encoder.min_side, 8)
        grey = await self.work(self.encoder.pixels, Image.new("RGB", (side, side), (120, 130, 140)))
        for row in (await self.texts.probe("a photo"), await self.pictures.probe(grey)):
            length = float(np.linalg.norm(row))
            if not abs(length - 1.0) < 1e-3:
                raise ArithmeticError(f"a vector has length {length}")

    async def close(self) -> None:
        """Answers what waits, then ends the threads."""
        await self.texts.close()
        await self.pictures.close()
        for pool in self._pools.values():
            pool.shutdown(wait=True)

    async def _text(self, text: str, cost: int) -> FloatArray:
        known = self._known.get(text)
        if known is not None:
            self._known.move_to_end(text)
            return known
        row = await self.texts.submit(text, min(cost, self.context))
        if len(text) <= 500:
            self._known[text] = row.copy()  # a row alone, not the whole batch that it is a part of
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return row

    async def _picture(self, picture: Picture) -> FloatArray:
        pixels = await self.work(self._prepare, picture)
        return await self.pictures.submit(pixels, int(pixels.shape[0] * pixels.shape[1]))

    def _prepare(self, picture: Picture) -> Pixels:
        data = picture.data
        if isinstance(data, str) and WEB.match(data[:40]):
            if not self.options.allow_urls:
                raise MediaError("is an address, and this server fetches nothing: send the picture itself in base64")
            data = fetch(data, max_bytes=self.options.max_body)
        return model_input(
            picture_bytes(data) if isinstance(data, str) else data, self.encoder, self.options.max_pixels
        )


async def _within(gate: asyncio.Semaphore, job: Coroutine[Any, Any, T]) -> T:
    try:
        async with gate:
            return await job
    finally:
        job.close()  # a job that never had its turn
