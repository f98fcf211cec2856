"""Work done in threads ahead of whoever wants its results, in order, with a bounded number of results in memory."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

__all__ = ["ahead"]

T = TypeVar("T")
R = TypeVar("R")


@contextlib.contextmanager
def ahead(items: Iterable[T], work: Callable[[T], R], *, threads: int, depth: int) -> Iterator[Iterator[tuple[T, R]]]:
    """(item, work(item)) in the order of the items.

    One thread walks over the items, so that reading a shard overlaps decoding and training; `threads` more do the work.
    Leaving the block stops all of them. What the items or the work raise is raised where the result is taken.

    Args:
        items: walked over in a thread of its own.
        work: called in threads.
        threads: how many; 0 does everything in the caller.
        depth: most items that are begun and not taken yet.
    """
    if threads == 0:
        yield ((item, work(item)) for item in items)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="binderclip-load") as pool:
        feeder = _Feeder(items, lambda item: pool.submit(work, item), max(depth, 1))
        feeder.start()
        try:
            yield feeder.take()
        finally:
            feeder.stop()
            pool.shutdown(cancel_futures=True)


class _Feeder(threading.Thread, Generic[T, R]):
    def __init__(self, items: Iterable[T], submit: Callable[[T], Future[R]], depth: int) -> None:
        super().__init__(name="binderclip-read", daemon=True)
        self.items, self.submit = items, submit
        self.results: queue.Queue[tuple[T, Future[R]] | BaseException | None] = queue.Queue(depth)
        self.stopped = threading.Event()

    def run(self) -> None:
        try:
            for item in self.items:
                if self.stopped.is_set():
                    return
                self.put((item, self.submit(item)))
            self.put(None)
        except BaseException as error:
            self.put(error)

    def put(self, result: tuple[T, Future[R]] | BaseException | None) -> None:
        while not self.stopped.is_set():
            with contextlib.suppress(queue.Full):
                self.results.put(result, timeout=0.1)
                return

    def take(self) -> Iterator[tuple[T, R]]:
        while (result := self.results.get()) is not None:
            if isinstance(result, BaseException):
                raise result
            yield result[0], result[1].result()

    def stop(self) -> None:
        self.stopped.set()
        self.join()
