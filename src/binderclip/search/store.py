"""The only truth of an index: files, what they hold, and a vector of each per model, in one SQLite file."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from binderclip.errors import IndexStateError
from binderclip.search import schema
from binderclip.search.lock import WriteLock
from binderclip.search.records import Entry, Known, Model, Problem
from binderclip.search.types import FloatArray, Row

__all__ = ["Entry", "Known", "Model", "Problem", "Store", "mean_row", "show_path", "unit_rows"]

_ROW = "f.path, f.shown, c.hash, f.size, f.mtime_ns, c.width, c.height, c.taken"
_CHUNK = 8_000  # rows read or variables bound at once


def show_path(raw: bytes) -> str:
    """A path as text: what is not UTF-8 becomes replacement characters."""
    return raw.decode("utf-8", "replace")


def unit_rows(blobs: Sequence[bytes], dim: int) -> FloatArray:
    """fp16 blobs as float32 rows [N, D], brought back to length 1."""
    half: NDArray[np.float16] = np.frombuffer(b"".join(blobs), dtype="<f2").reshape(len(blobs), dim)
    rows = half.astype(np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(norms, 1e-12), dtype=np.float32)


class Store:
    """The SQLite file of an index, for one of its many readers.

    Args:
        folder: where the index is.

    Raises:
        IndexStateError: there is no index here, it is of a newer schema, or it cannot be read.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.file = self.folder / "index.sqlite3"
        self._turn = threading.Lock()
        if not self.file.is_file():
            raise IndexStateError(f"no index at {self.folder}: make one with: binderclip index PATH --db {self.folder}")
        self._link = schema.connect(self.file)
        try:
            found = schema.check(self._link)
            if found == 0:
                raise IndexStateError(f"the index at {self.folder} is empty: fill it with: binderclip index PATH")
            if found < schema.VERSION and not os.access(self.folder, os.W_OK):
                schema.read_as_is(self._link, found)
            elif found < schema.VERSION:
                with WriteLock(self.folder / "write.lock", wait=60.0):
                    schema.prepare(self._link)
        except BaseException:
            self._link.close()
            raise

    # -- facts ---------------------------------------------------------------------------------------------------

    def meta(self, key: str) -> str:
        """A fact about the whole index: `id`, `generation`, `removals`, `model`."""
        found = self._link.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
        return "" if found is None else str(found[0])

    def stamp(self) -> tuple[str, int, int]:
        """(id of the index, count of vector removals, generation): what a cache must match."""
        return self.meta("id"), int(self.meta("removals")), int(self.meta("generation"))

    def models(self) -> list[Model]:
        """The models whose vectors are here, in the order they came."""
        sql = (
            "SELECT m.id, m.fingerprint, m.name, m.dim, EXISTS (SELECT 1 FROM vectors v WHERE v.model=m.id)"
            " FROM models m ORDER BY m.id"
        )
        return [Model(key, mark, name, dim, bool(filled)) for key, mark, name, dim, filled in self._link.execute(sql)]

    def model(self, fingerprint: str) -> Model | None:
        """The model of that fingerprint, or None."""
        return next((model for model in self.models() if model.fingerprint == fingerprint), None)

    def vector_count(self, model: Model) -> int:
        """How many vectors of a model there are."""
        return int(self._link.execute("SELECT count(*) FROM vectors WHERE model=?", (model.id,)).fetchone()[0])

    def roots(self) -> list[bytes]:
        """The paths that were given to `index`, so that they can be read again."""
        return [row[0] for row in self._link.execute("SELECT path FROM roots ORDER BY path")]

    def counts(self) -> dict[str, int]:
        """How many files, missing files, contents and problems there are."""
        sql = (
            "SELECT (SELECT count(*) FROM files WHERE state=0), (SELECT count(*) FROM files WHERE state=1),"
            " (SELECT count(*) FROM contents), (SELECT count(*) FROM problems)"
        )
        return dict(zip(("files", "missing", "contents", "problems"), self._link.execute(sql).fetchone(), strict=True))

    def unencoded(self, model: Model) -> int:
        """How many files that are there lack a vector of a model."""
        sql = (
            "SELECT count(*) FROM files f WHERE f.state=0 AND (f.content IN (SELECT content FROM unfinished WHERE model=?)"
            " OR NOT EXISTS (SELECT 1 FROM vectors v WHERE v.content=f.content AND v.model=?))"
        )
        return int(self._link.execute(sql, (model.id, model.id)).fetchone()[0])

    def unfinished(self, model: Model) -> int:
        """How many videos have vectors of a model for their first part only."""
        return int(self._link.execute("SELECT count(*) FROM unfinished WHERE model=?", (model.id,)).fetchone()[0])

    def frame_count(self, model: Model) -> int:
        """How many vectors of a model are of frames of videos."""
        sql = "SELECT count(*) FROM vectors WHERE model=? AND time IS NOT NULL"
        return int(self._link.execute(sql, (model.id,)).fetchone()[0])

    # -- reading -------------------------------------------------------------------------------------------------

    def known(self, model: int) -> dict[bytes, Known]:
        """Path to what is known of it, for every path that was ever indexed and not removed."""
        sql = (
            "SELECT f.path, f.size, f.mtime_ns, c.hash, f.state,"
            " EXISTS (SELECT 1 FROM vectors v WHERE v.content=c.id AND v.model=?1)"
            " AND NOT EXISTS (SELECT 1 FROM unfinished u WHERE u.content=c.id AND u.model=?1)"
            " FROM files f JOIN contents c ON c.id=f.content"
        )
        return {
            row[0]: Known(row[1], row[2], row[3], row[4] != 0, bool(row[5]))
            for row in self._link.execute(sql, (model,))
        }

    def encoded(self, model: int) -> set[bytes]:
        """Hashes of the contents that have a vector of this model; of videos, those that are whole."""
        sql = (
            "SELECT DISTINCT c.hash FROM vectors v JOIN contents c ON c.id=v.content WHERE v.model=?1"
            " AND c.id NOT IN (SELECT content FROM unfinished WHERE model=?1)"
        )
        return {row[0] for row in self._link.execute(sql, (model,))}

    def frames_of(self, content: bytes, model: Model) -> tuple[list[float], FloatArray]:
        """Times and unit rows [N, D] of what is held of a video, in the order of time."""
        sql = (
            "SELECT v.time, v.vector FROM vectors v JOIN contents c ON c.id=v.content"
            " WHERE c.hash=? AND v.model=? AND v.time IS NOT NULL ORDER BY v.time"
        )
        found = self._link.execute(sql, (content, model.id)).fetchall()
        return [row[0] for row in found], unit_rows([row[1] for row in found], model.dim)

    def problems(self) -> list[Problem]:
        """Files that could not be indexed, in the order of their paths."""
        sql = "SELECT path, size, mtime_ns, reason FROM problems ORDER BY path"
        return [Problem(*row) for row in self._link.execute(sql)]

    def rows(self, where: str = "1", values: Sequence[object] = ()) -> Iterator[Row]:
        """Files that are there, in the order of their paths; `where` is SQL made by `search.where`."""
        sql = f"SELECT {_ROW} FROM files f JOIN contents c ON c.id=f.content WHERE f.state=0 AND ({where}) ORDER BY f.path"  # noqa: S608
        for row in self._link.execute(sql, tuple(values)):
            yield _row(row)

    def rows_with_vectors(self, model: Model, *, moments: bool = False) -> Iterator[tuple[Row, bytes]]:
        """Files that are there and their fp16 vectors of one model, in the order of their paths.

        Args:
            model: whose vectors.
            moments: of a video, each frame; else one row, with the mean of its frames.
        """
        sql = (
            f"SELECT {_ROW}, v.time, v.vector FROM files f JOIN contents c ON c.id=f.content"  # noqa: S608
            " JOIN vectors v ON v.content=c.id AND v.model=? WHERE f.state=0 ORDER BY f.path, v.time"
        )
        found = ((_row(row[:-1]), row[-1]) for row in self._link.execute(sql, (model.id,)))
        if moments:
            yield from found
            return
        for _, some in itertools.groupby(found, key=lambda one: one[0].raw_path):
            frames = list(some)
            row, blob = frames[0]
            if row.time is not None:
                mean = mean_row(unit_rows([blob for _, blob in frames], model.dim))
                row, blob = replace(row, time=None), np.asarray(mean, dtype="<f2").tobytes()
            yield row, blob

    def vectors_after(self, model: Model, last: int) -> Iterator[tuple[NDArray[np.int64], FloatArray]]:
        """Blocks of (vector ids, unit rows) of one model, in the order of ids, of those after id `last`."""
        sql = "SELECT id, vector FROM vectors WHERE model=? AND id>? ORDER BY id"
        cursor = self._link.execute(sql, (model.id, last))
        while block := cursor.fetchmany(_CHUNK):
            yield np.array([row[0] for row in block], dtype=np.int64), unit_rows([row[1] for row in block], model.dim)

    def vectors_of(self, ids: Sequence[int], dim: int) -> FloatArray:
        """Unit rows [N, D] of vector ids, in the order given; every id must be there."""
        found: dict[int, bytes] = {}
        for some in _chunks(ids):
            found.update(self._link.execute(f"SELECT id, vector FROM vectors WHERE id IN ({_marks(some)})", some))  # noqa: S608
        return unit_rows([found[key] for key in ids], dim)

    def files_of(self, ids: Sequence[int], where: str = "1", values: Sequence[object] = ()) -> dict[int, list[Row]]:
        """Vector id to the files that are there and hold that content; ids without one are left out."""
        found: dict[int, list[Row]] = {}
        for some in _chunks(ids):
            sql = (
                f"SELECT v.id, {_ROW}, v.time FROM vectors v JOIN contents c ON c.id=v.content"  # noqa: S608
                f" JOIN files f ON f.content=c.id AND f.state=0 WHERE v.id IN ({_marks(some)}) AND ({where}) ORDER BY f.path"
            )
            for row in self._link.execute(sql, (*some, *values)):
                found.setdefault(row[0], []).append(_row(row[1:]))
        return found

    def allowed(self, model: Model, where: str, values: Sequence[object]) -> NDArray[np.int64]:
        """Sorted ids of the vectors of one model that a file with `where` holds."""
        # CROSS: files come first, so that a filter on paths is one pass over one table.
        sql = (
            "SELECT v.id FROM files f CROSS JOIN contents c ON c.id=f.content"  # noqa: S608
            f" CROSS JOIN vectors v ON v.content=c.id AND v.model=? WHERE f.state=0 AND ({where})"
        )
        found = self._link.execute(sql, (model.id, *values)).fetchall()
        return np.unique(np.array([row[0] for row in found], dtype=np.int64))

    def vector_of_path(self, path: bytes, model: Model) -> FloatArray | None:
        """The unit vector [D] of an indexed path that is there (of a video, the mean of its frames), or None."""
        sql = (
            "SELECT v.vector FROM files f JOIN vectors v ON v.content=f.content AND v.model=?"
            " WHERE f.path=? AND f.state=0"
        )
        found = [row[0] for row in self._link.execute(sql, (model.id, path))]
        return mean_row(unit_rows(found, model.dim)) if found else None

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A block in which everything read is of one moment, whatever the writer does meanwhile."""
        # A connection has one transaction at a time: threads that search take turns.
        with self._turn, schema.transaction(self._link, "DEFERRED"):
            yield

    def define(self, name: str, function: Callable[[str], str]) -> None:
        """Gives SQL a function of text."""
        self._link.create_function(name, 1, function, deterministic=True)

    def wrong_lengths(self, model: Model) -> int:
        """How many vectors of a model are not of its length."""
        sql = "SELECT count(*) FROM vectors WHERE model=? AND length(vector) != ?"
        return int(self._link.execute(sql, (model.id, 2 * model.dim)).fetchone()[0])

    def integrity(self) -> list[str]:
        """What SQLite itself finds wrong with the file; empty when it is whole."""
        found = [str(row[0]) for row in self._link.execute("PRAGMA integrity_check")]
        found += [
            f"row {row[1]} of {row[0]} refers to nothing" for row in self._link.execute("PRAGMA foreign_key_check")
        ]
        return [line for line in found if line != "ok"]

    def close(self) -> None:
        """Closes the file."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _row(row: Sequence[Any]) -> Row:
    path, shown, content, size, mtime_ns, width, height, taken, *time = row
    return Row(shown, path, content.hex(), size, mtime_ns, width, height, taken, *time)


def mean_row(rows: FloatArray) -> FloatArray:
    """The unit mean [D] of unit rows [N, D]; the first where they cancel each other."""
    mean = rows.mean(axis=0)
    length = float(np.linalg.norm(mean))
    return np.asarray(mean / length if len(rows) > 1 and length > 1e-6 else rows[0], dtype=np.float32)


def _chunks(ids: Sequence[int]) -> Iterator[list[int]]:
    for start in range(0, len(ids), _CHUNK):
        yield [int(key) for key in ids[start : start + _CHUNK]]


def _marks(some: Sequence[int]) -> str:
    return ",".join("?" * len(some))
