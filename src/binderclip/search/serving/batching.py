"""Dynamic batching: what is asked for while the model is busy is computed together next.

Nothing waits for company: a lone input starts at once, and the busier the server, the larger its batches. A batch is
capped by rows and by cost (tokens or pixels, padding included). When a batch fails, its halves are tried, down to the
one input that is to blame: that input fails, all others are answered.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from binderclip.search.serving.failures import ApiError, BusyError
from binderclip.search.types import FloatArray

__all__ = ["Batcher"]

T = TypeVar("T")


@dataclass(slots=True)
class _Waiting(Generic[T]):
    value: T
    cost: int
    answer: asyncio.Future[FloatArray]


class Batcher(Generic[T]):
    """One lane to the model: a queue, and threads that compute batch after batch.

    Args:
        name: `texts` or `pictures`, for messages and metrics.
        compute: N values to rows [N, D]; called in the lane's thread.
        rows: most values of a batch.
        cost: most cost of a batch: N times the largest cost in it. A value that costs more goes alone.
        limit: values admitted and not yet answered; see `admit`.
        threads: batches computed at once.
        on_batch: called with the size of each batch that was computed.
    """

    def __init__(
        self,
        name: str,
        compute: Callable[[list[T]], FloatArray],
        *,
        rows: int,
        cost: int,
        limit: int,
        threads: int = 1,
        on_batch: Callable[[int], None] | None = None,
    ) -> None:
        self.name, self.rows, self.cost, self.limit = name, rows, cost, limit
        self.pending = 0  # admitted and not yet answered
        self._compute, self._on_batch = compute, on_batch or (lambda size: None)
        self._waiting: deque[_Waiting[T]] = deque()
        self._thread = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=f"binderclip-{name}")
        self._wake = asyncio.Event()
        self._closing = False
        self._threads, self._tasks = threads, list[asyncio.Task[None]]()

    @contextlib.contextmanager
    def admit(self, count: int) -> Iterator[None]:
        """A block in which `count` values may be submitted; they hold their places in the queue until it ends.

        Raises:
            BusyError: there is no room now.
        """
        if self._closing:
            raise ApiError(503, "the server is stopping: ask another", code="stopping", retry_after=5)
        if self.pending + count > max(self.limit, count if self.pending == 0 else 0):
            raise BusyError(self.name)
        self.pending += count
        try:
            yield
        finally:
            self.pending -= count

    async def submit(self, value: T, cost: int) -> FloatArray:
        """The row [D] of one value.

        Raises:
            Exception: whatever `compute` raised for this value.
        """
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._work()) for _ in range(self._threads)]
        answer: asyncio.Future[FloatArray] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(value, cost, answer))
        self._wake.set()
        return await answer

    async def probe(self, value: T) -> FloatArray:
        """The row of one value, past the queue: a full queue is no sickness."""
        loop = asyncio.get_running_loop()
        row: FloatArray = (await loop.run_in_executor(self._thread, self._compute, [value]))[0]
        return row

    async def close(self) -> None:
        """Computes what waits, then ends the thread."""
        self._closing = True
        self._wake.set()
        await asyncio.gather(*self._tasks)
        self._thread.shutdown(wait=True)

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            if batch := self._take():
                await self._answer(batch)
            elif self._closing:
                return
            else:
                self._wake.clear()

    def _take(self) -> list[_Waiting[T]]:
        batch: list[_Waiting[T]] = []
        widest = 0
        while self._waiting and len(batch) < self.rows:
            first = self._waiting[0]
            if first.answer.done():  # its client gave up
                self._waiting.popleft()
                continue
            widest = max(widest, first.cost)
            if batch and widest * (len(batch) + 1) > self.cost:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _answer(self, batch: Sequence[_Waiting[T]]) -> None:
        loop = asyncio.get_running_loop()
        try:
            rows = await loop.run_in_executor(self._thread, self._rows, [one.value for one in batch])
        except Exception as error:
            if len(batch) == 1:
                _settle(batch[0].answer, error=error)
                return
            middle = len(batch) // 2
            await self._answer(batch[:middle])
            await self._answer(batch[middle:])
            return
        self._on_batch(len(batch))
        for one, row in zip(batch, rows, strict=True):
            finite = bool(np.isfinite(row).all())
            _settle(one.answer, row=row if finite else None, error=None if finite else ArithmeticError("not finite"))

    def _rows(self, values: list[T]) -> FloatArray:
        rows = self._compute(values)
        if len(rows) != len(values):
            raise RuntimeError(f"the model gave {len(rows)} rows for {len(values)} {self.name}")
        return rows


def _settle(answer: asyncio.Future[FloatArray], *, row: Any = None, error: Exception | None = None) -> None:
    if answer.done():
        return
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(row)
