"""Ctrl-C in the middle of a step would leave half of it in the weights: the wish is noted, and heard between steps."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["asked_to_stop"]


@contextlib.contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Inside, SIGINT and SIGTERM are noted, and what is given tells whether one came; the second one stops at once.

    Outside the main thread nothing is noted: signals go to the main thread alone.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def note(number: int, frame: Any) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
