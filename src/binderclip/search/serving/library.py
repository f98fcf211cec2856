"""The files of an index by the hash of what they hold: nothing else can be asked for, and nothing else is handed out."""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path

from PIL import Image

from binderclip.data.media import OPTIONAL_SUFFIXES, _formats, open_image
from binderclip.data.video import frame_at, is_video
from binderclip.errors import MediaError
from binderclip.search import schema
from binderclip.search.index import LocalIndex
from binderclip.search.reading import content_hash, open_regular, read_file
from binderclip.search.scan import Found
from binderclip.search.serving.failures import ApiError
from binderclip.search.types import FloatArray, Row

__all__ = ["Library", "Side"]


class Side(IntEnum):
    """Long sides of thumbnails, in pixels: few, so that they can be kept."""

    SMALL = 320
    MEDIUM = 640
    LARGE = 1600


_KEPT_BYTES = 64 << 20
_MOST_BYTES = 256 << 20  # of an original that is handed out

# What a browser shows as a picture; all else is sent as bytes to be saved.
_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "GIF": "image/gif", "WEBP": "image/webp", "AVIF": "image/avif"}


class Library:
    """Rows, vectors and bytes of an index's files, by id: the 32 hexadecimal digits of the content's hash.

    Args:
        index: whose files.
        full_paths: whether paths are shown as they are.
    """

    def __init__(self, index: LocalIndex, *, full_paths: bool = False) -> None:
        self.index, self._full = index, full_paths
        self._link = schema.connect(index.folder / "index.sqlite3")
        self._turn = threading.Lock()
        self._kept: OrderedDict[tuple[str, int, float], bytes] = OrderedDict()
        self._kept_bytes = 0

    def file_of(self, key: str) -> Found:
        """The first file, in the order of paths, that holds that content, as it was when it was indexed.

        Raises:
            ApiError: the index holds no such file.
        """
        try:
            content = bytes.fromhex(key) if len(key) == 32 else b""
        except ValueError:
            content = b""
        sql = (
            "SELECT f.path, f.size, f.mtime_ns FROM contents c JOIN files f ON f.content=c.id AND f.state=0"
            " WHERE c.hash=? ORDER BY f.path"
        )
        with self._turn, schema.plain_errors():
            found = self._link.execute(sql, (content,)).fetchone()
        if found is None:
            raise ApiError(404, "the index holds no file of that id", code="not_found")
        return Found(*found)

    def vector_of(self, key: str) -> tuple[FloatArray, bytes]:
        """The unit vector [D] of a file, and its path.

        Raises:
            ApiError: the index holds no such file, or no vector of it.
        """
        path = self.file_of(key).path
        vector = self.index.vector_of(os.fsdecode(path))
        if vector is None:
            raise ApiError(404, "that picture has no vector of the model in use: index it again", code="not_found")
        return vector, path

    def original(self, key: str) -> tuple[bytes, str, str]:
        """(bytes, media type, file name) of a file, exactly as it was indexed.

        Raises:
            ApiError: the index holds no such file, or the file has changed since.
        """
        path, data = self._read(key)
        try:
            with Image.open(io.BytesIO(data), formats=[name for name in _formats() if name in _TYPES]) as image:
                kind = _TYPES.get(str(image.format), "")
        except Exception:  # whatever a decoder says: then it is no picture that a browser shows
            kind = ""
        return data, kind or "application/octet-stream", os.path.basename(path.decode("utf-8", "replace"))

    def thumbnail(self, key: str, side: int, time: float = 0.0) -> bytes:
        """A JPEG of a file, or of a video's frame at a time in seconds, whose long side is at most `side` pixels.

        Raises:
            ApiError: the index holds no such file, or the file has changed since.
        """
        name = (key, side, time)
        with self._turn:
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name]
        found = self.file_of(key)
        try:
            image = self._frame(found, time) if is_video(found.path) else self._picture(key, side)
        except MediaError as error:
            raise ApiError(410, f"the file {error}", code="gone") from None
        image.thumbnail((side, side))
        out = io.BytesIO()
        image.save(out, "JPEG", quality=82, progressive=side > Side.SMALL)
        self._keep(name, out.getvalue())
        return out.getvalue()

    def _picture(self, key: str, side: int) -> Image.Image:
        path, data = self._read(key)
        by_path = Path(os.fsdecode(path)).suffix.lower() in OPTIONAL_SUFFIXES
        return open_image(os.fsdecode(path) if by_path else data, min_side=side).image

    def _frame(self, found: Found, time: float) -> Image.Image:
        """A video is too long to be hashed for each picture of it: its size and date must be what they were."""
        with open_regular(found.path) as (stream, facts):
            if facts != found:
                raise MediaError("has changed since it was indexed: index it again")
            return frame_at(stream, time)

    def roots(self) -> list[str]:
        """The folders that were indexed."""
        return [] if self._full else self.index.roots()

    def shown(self, row: Row, roots: Sequence[str]) -> str:
        """A row's path as clients see it: from the folder that was indexed on, unless all of it may be seen."""
        if self._full:
            return row.path
        for root in roots:
            if row.path == root or row.path.startswith(root.rstrip("/") + "/"):
                return os.path.relpath(row.path, os.path.dirname(root.rstrip("/")) or "/")
        return os.path.basename(row.path)

    def close(self) -> None:
        """Closes the file of the index."""
        self._link.close()

    def _read(self, key: str) -> tuple[bytes, bytes]:
        path = self.file_of(key).path
        try:
            if os.stat(os.fsdecode(path)).st_size > _MOST_BYTES:
                raise ApiError(413, "the file is too large to be sent", code="too_large")
            data, _ = read_file(path)
        except (OSError, MediaError):
            raise ApiError(410, "the file is gone since it was indexed", code="gone") from None
        # A link or another file that has taken its place since is never served.
        if content_hash(data) != bytes.fromhex(key):
            raise ApiError(410, "the file has changed since it was indexed: index it again", code="gone")
        return path, data

    def _keep(self, key: tuple[str, int, float], data: bytes) -> None:
        with self._turn:
            self._kept_bytes += len(data) - len(self._kept.pop(key, b""))
            self._kept[key] = data
            while self._kept_bytes > _KEPT_BYTES:
                _, dropped = self._kept.popitem(last=False)
                self._kept_bytes -= len(dropped)
