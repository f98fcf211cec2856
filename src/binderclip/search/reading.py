"""One file off the disk: its bytes, their hash, the picture in them, the model's input of the picture."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from binderclip.data.media import OPTIONAL_SUFFIXES, open_image
from binderclip.errors import MediaError, NeedsExtraError
from binderclip.search.scan import Found
from binderclip.search.types import EncoderLike, Pixels

__all__ = ["Outcome", "content_hash", "hash_file", "hash_stream", "open_regular", "read_file", "read_picture"]

MAX_BYTES = 1 << 30  # a gigabyte: no still picture is larger, and it must fit in memory
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """What reading one file gave: model input, or only a hash that is known already, or a reason why not."""

    found: Found
    content: bytes = b""
    pixels: Pixels | None = None
    width: int = 0
    height: int = 0
    taken: str | None = None
    reason: str = ""
    needs: str = ""


def content_hash(data: bytes) -> bytes:
    """What names a content in the index: BLAKE2b of 16 bytes."""
    return hashlib.blake2b(data, digest_size=16).digest()


def read_file(path: bytes) -> tuple[bytes, Found]:
    """The bytes of a file, and its facts at the moment they were read.

    Raises:
        MediaError: it cannot be read, or does not stop changing.
    """
    try:
        for _ in range(_ATTEMPTS):
            # Not blocking: a pipe that took the place of a picture must not hang the run.
            handle = os.open(os.fsdecode(path), os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
            with os.fdopen(handle, "rb") as file:
                before = os.fstat(file.fileno())
                if not stat.S_ISREG(before.st_mode):
                    raise MediaError("is not a regular file")
                if before.st_size > MAX_BYTES:
                    raise MediaError(f"is too large: {before.st_size:,} bytes")
                data = file.read(MAX_BYTES + 1)
                after = os.fstat(file.fileno())
            same = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
            if same and len(data) == after.st_size:
                return data, Found(path, after.st_size, after.st_mtime_ns)
    except OSError as error:
        raise MediaError(f"cannot be read: {error.strerror or error}") from None
    raise MediaError("changed while it was read")


@contextmanager
def open_regular(path: bytes) -> Iterator[tuple[BinaryIO, Found]]:
    """A file of any size, open for reading, and its facts.

    Raises:
        MediaError: it cannot be read, is empty, or is no regular file; inside the block, the disk failed.
    """
    try:
        handle = os.open(os.fsdecode(path), os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise MediaError("is not a regular file")
            if facts.st_size == 0:
                raise MediaError("is empty (zero bytes)")
            yield file, Found(path, facts.st_size, facts.st_mtime_ns)
    except OSError as error:
        raise MediaError(f"cannot be read: {error.strerror or error}") from None


def hash_stream(stream: BinaryIO) -> bytes:
    """`content_hash` of all that a file holds, in bounded memory; the file is back at its start."""
    total = hashlib.blake2b(digest_size=16)
    while block := stream.read(1 << 20):
        total.update(block)
    stream.seek(0)
    return total.digest()


def hash_file(path: bytes) -> bytes:
    """`content_hash` of a file of any size.

    Raises:
        MediaError: it cannot be read.
    """
    with open_regular(path) as (stream, _):
        return hash_stream(stream)


def read_picture(found: Found, encoder: EncoderLike, is_known: Callable[[bytes], bool] | Collection[bytes]) -> Outcome:
    """Reads, hashes and, when its content is new, decodes one file. Never raises for a bad one.

    Args:
        found: the file, as the walk saw it.
        encoder: makes the model's input.
        is_known: whether a content hash has its vector already.
    """
    knows = is_known if callable(is_known) else is_known.__contains__
    try:
        data, found = read_file(found.path)
        if not data:
            raise MediaError("is empty (zero bytes)")
        content = content_hash(data)
        if knows(content):
            return Outcome(found, content)
        # Formats of an extra are told by their name, not by their bytes, so those are opened by path.
        by_path = Path(os.fsdecode(found.path)).suffix.lower() in OPTIONAL_SUFFIXES
        picture = open_image(os.fsdecode(found.path) if by_path else data, min_side=encoder.min_side)
        pixels = encoder.pixels(picture.image)
    except NeedsExtraError as error:
        return Outcome(found, needs=error.extra)
    except (MediaError, MemoryError) as error:
        return Outcome(found, reason=str(error) or "is too large for the memory there is")
    return Outcome(found, content, pixels, picture.width, picture.height, picture.taken)
