"""The lock that lets one process write an index, and says who holds it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from binderclip.errors import IndexLockedError

__all__ = ["WriteLock"]

_FAR = 1 << 30  # the byte that Windows locks: far behind the text, which others may then still read


class WriteLock:
    """One writer at a time: an operating system's lock on a file that says who holds it.

    The lock dies with its process, so a killed writer never blocks the next one.

    Args:
        path: the lock file; stays there when the lock is let go.
        wait: seconds to wait for another writer before giving up.
        on_wait: called once with who holds it, when waiting starts.
    """

    def __init__(self, path: Path, wait: float = 0.0, on_wait: Callable[[str], None] | None = None) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        deadline, told = time.monotonic() + wait, False
        while not _try_lock(self._file):
            holder = self._holder()
            if time.monotonic() >= deadline:
                os.close(self._file)
                raise IndexLockedError(f"{path.parent} is being written by {holder}: wait for it, or use --wait")
            if on_wait is not None and not told:
                on_wait(holder)
                told = True
            time.sleep(0.1)
        text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}).encode()
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        os.write(self._file, text)

    def _holder(self) -> str:
        try:
            os.lseek(self._file, 0, os.SEEK_SET)
            who = json.loads(os.read(self._file, 4096))
            return f"process {who['pid']} on {who['host']} since {who['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"  # it has the lock and has not yet written its name

    def release(self) -> None:
        """Lets the next writer in."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)
            os.close(self._file)  # closing lets go of the lock
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: int) -> bool:
        os.lseek(file, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(file: int) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True
