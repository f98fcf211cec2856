"""An index as a Lance table, on a disk or on object storage: the same rows, behind the same `Index` (extra `lance`).

A scan of the whole table, so its answers are exact. Filters run over the table's columns in SQLite in memory: one filter
language, one meaning, and no text of the user's ever becomes part of a query.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from binderclip.errors import IndexStateError, NeedsExtraError
from binderclip.search.base import Index, load_encoder
from binderclip.search.store import Entry, mean_row, show_path, unit_rows
from binderclip.search.types import EncoderLike, FloatArray, Row
from binderclip.search.where import SQL_FUNCTIONS, parse_where
from binderclip.search.writer import Writer

if TYPE_CHECKING:
    from binderclip.search.index import LocalIndex
    from binderclip.search.indexer import Report

__all__ = ["LanceIndex"]

TABLE = "binderclip"
_FACTS = ["id", "path", "content", "size", "mtime_ns", "width", "height", "taken", "time"]
_BATCH = 4096


class LanceIndex(Index):
    """An index in a Lance table.

    Args:
        uri: a folder, or an address such as `s3://bucket/photos`.
        encoder: an encoder, a model's name, or None for the model that made the vectors.

    Raises:
        NeedsExtraError: LanceDB is not installed.
    """

    def __init__(self, uri: str, encoder: EncoderLike | str | None = None) -> None:
        try:
            import lancedb
        except ImportError:
            raise NeedsExtraError("a Lance table", "lance") from None
        self.uri = uri
        self._link = lancedb.connect(uri)
        self._asked = encoder
        self._encoder: EncoderLike | None = None
        self._facts: sqlite3.Connection | None = None

    # -- carrying ------------------------------------------------------------------------------------------------------

    def fill_from(self, index: LocalIndex) -> int:
        """Writes the files and vectors of an index as this table, in place of what it held; returns how many."""
        import pyarrow as pa

        model, count = index.model, 0
        kinds = {
            "id": pa.int64(),
            "path": pa.binary(),
            "content": pa.binary(),
            "size": pa.int64(),
            "mtime_ns": pa.int64(),
        }
        kinds |= {"width": pa.int32(), "height": pa.int32(), "taken": pa.string(), "time": pa.float64()}
        kinds |= {"model": pa.string()}
        schema = pa.schema(
            [*kinds.items(), ("fingerprint", pa.string()), ("vector", pa.list_(pa.float16(), model.dim))]
        )

        def batches() -> Iterator[Any]:
            nonlocal count
            rows: list[dict[str, Any]] = []
            for row, blob in index.store.rows_with_vectors(model, moments=True):
                rows.append(
                    {"id": count, "path": row.raw_path, "content": bytes.fromhex(row.content), "size": row.size,
                     "mtime_ns": row.mtime_ns, "width": row.width, "height": row.height, "taken": row.taken,
                     "time": row.time, "model": model.name, "fingerprint": model.fingerprint,
                     "vector": np.frombuffer(blob, "<f2")}
                )  # fmt: skip
                count += 1
                if len(rows) == _BATCH:
                    yield pa.RecordBatch.from_pylist(rows, schema)
                    rows = []
            if rows:
                yield pa.RecordBatch.from_pylist(rows, schema)

        self._link.create_table(TABLE, batches(), schema=schema, mode="overwrite")
        self._facts = None
        return count

    def copy_into(self, index: LocalIndex, wait: float = 0.0) -> int:
        """Takes this table's files and vectors into an index, beside what that holds; returns how many."""
        rows = self._table().to_arrow().to_pylist()
        if not rows:
            return 0
        dim = len(rows[0]["vector"])
        with Writer(index.folder, wait=wait) as writer:
            model = writer.add_model(rows[0]["fingerprint"], rows[0]["model"], dim)
            pictures = [row for row in rows if row.get("time") is None]
            for start in range(0, len(pictures), _BATCH):
                writer.commit(model, [_entry(row) for row in pictures[start : start + _BATCH]])
            frames = (row for row in rows if row.get("time") is not None)
            for _, some in itertools.groupby(frames, key=lambda row: row["path"]):
                video = list(some)
                vectors = np.array([row["vector"] for row in video], np.float32)
                entry = replace(_entry(video[0]), vector=None)
                writer.commit_frames(model, entry, [row["time"] for row in video], vectors, whole=True)
        return len(rows)

    # -- reading -------------------------------------------------------------------------------------------------------

    def _table(self) -> Any:
        try:
            return self._link.open_table(TABLE)
        except Exception as error:  # lancedb raises what its Rust side makes
            message = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise IndexStateError(
                f"{self.uri} holds no table of binderclip ({message[:120]}): make one with --to lance:{self.uri}"
            ) from None

    def add(self, paths: Sequence[str | os.PathLike[str]], **_: Any) -> Report:
        """A table is filled from an index in a folder, not from files.

        Raises:
            IndexStateError: always; the message names the way.
        """
        raise IndexStateError(f"a Lance table takes no files: binderclip index PATH --to lance:{self.uri}")

    def ready(self) -> None:
        """See `Index.ready`."""
        self._table()

    @property
    def facts(self) -> sqlite3.Connection:
        """The columns of the table without its vectors, in memory."""
        if self._facts is None:
            held = self._table()
            columns = [name for name in _FACTS if name in held.schema.names]  # an older table has no times
            table = held.search().select(columns).limit(None).to_arrow().to_pylist()
            link = sqlite3.connect(":memory:", check_same_thread=False)
            for name, function in SQL_FUNCTIONS.items():
                link.create_function(name, 1, function, deterministic=True)
            link.execute("CREATE TABLE contents (id INTEGER PRIMARY KEY, hash BLOB, width, height, taken)")
            link.execute("CREATE TABLE files (id INTEGER PRIMARY KEY, path BLOB, shown, size, mtime_ns, time)")
            link.executemany("INSERT INTO contents VALUES (:id, :content, :width, :height, :taken)", table)
            for one in table:
                one["shown"] = show_path(one["path"])
                one.setdefault("time", None)
            link.executemany("INSERT INTO files VALUES (:id, :path, :shown, :size, :mtime_ns, :time)", table)
            self._facts = link
        return self._facts

    def _select(self, where: str | None) -> list[tuple[int, Row]]:
        condition = parse_where(where)
        sql = (
            "SELECT f.id, f.path, f.shown, c.hash, f.size, f.mtime_ns, c.width, c.height, c.taken, f.time"  # noqa: S608
            f" FROM files f JOIN contents c ON c.id=f.id WHERE {condition.sql} ORDER BY f.path, f.time"
        )
        found = self.facts.execute(sql, condition.values)
        return [(r[0], Row(r[2], r[1], r[3].hex(), *r[4:])) for r in found]

    @property
    def encoder(self) -> EncoderLike:
        """See `Index.encoder`."""
        if self._encoder is None:
            held = self._table().search().select(["model", "fingerprint"]).limit(1).to_arrow().to_pylist()
            asked = self._asked or (held[0]["model"] if held else "pocket")
            encoder = load_encoder(asked) if isinstance(asked, str) else asked
            if held and held[0]["fingerprint"] != encoder.fingerprint:
                raise IndexStateError(
                    f"{self.uri} holds vectors of {held[0]['model']} ({held[0]['fingerprint']}), not of {encoder.name}"
                    f" ({encoder.fingerprint}): re-encode with: binderclip index PATH --to lance:{self.uri}"
                )
            self._encoder = encoder
        return self._encoder

    def nearest(self, query: FloatArray, k: int, where: str | None = None) -> tuple[list[Row], FloatArray, FloatArray]:
        """See `Index.nearest`: an exact scan."""
        chosen = dict(self._select(where))
        search = self._table().search(np.asarray(query, np.float32).tolist()).distance_type("cosine")
        if where:
            keys = ",".join(str(int(key)) for key in chosen) or "-1"
            search = search.where(f"id IN ({keys})", prefilter=True)
        # Equal distances come in no order: some more are taken, so that ties can be put in the order of paths.
        found = search.select(["id", "vector", "_distance"]).limit(k + 32).to_arrow().to_pylist()
        found = [one for one in found if one["id"] in chosen]
        vectors = _units([one["vector"] for one in found], len(query))
        cosines = vectors @ query
        order = sorted(range(len(found)), key=lambda i: (-float(cosines[i]), chosen[found[i]["id"]].raw_path))[:k]
        return [chosen[found[i]["id"]] for i in order], cosines[order], vectors[order]

    def rows(self, where: str | None = None) -> Iterator[Row]:
        """See `Index.rows`."""
        found = itertools.groupby((row for _, row in self._select(where)), key=lambda row: row.raw_path)
        return (replace(next(some), time=None) for _, some in found)

    def vectors(self) -> tuple[list[Row], FloatArray]:
        """See `Index.vectors`."""
        held = {
            one["id"]: one["vector"]
            for one in self._table().search().select(["id", "vector"]).limit(None).to_arrow().to_pylist()
        }
        dim, rows, vectors = self.encoder.dim, [], []
        for _, some in itertools.groupby(self._select(None), key=lambda one: one[1].raw_path):
            frames = list(some)
            rows.append(replace(frames[0][1], time=None))
            vectors.append(mean_row(_units([held[key] for key, _ in frames], dim)))
        return rows, np.stack(vectors) if vectors else np.zeros((0, dim), np.float32)

    def vector_of(self, path: str | os.PathLike[str]) -> FloatArray | None:
        """See `Index.vector_of`."""
        raw = os.fsencode(os.path.abspath(os.path.expanduser(os.fspath(path))))
        found = [str(int(row[0])) for row in self.facts.execute("SELECT id FROM files WHERE path=?", (raw,))]
        if not found:
            return None
        chosen = self._table().search().where(f"id IN ({','.join(found)})").select(["vector"]).limit(len(found))
        rows = [one["vector"] for one in chosen.to_arrow().to_pylist()]
        return mean_row(_units(rows, len(rows[0])))

    def info(self) -> dict[str, Any]:
        """See `Index.info`."""
        table = self._table()
        held = table.search().select(["model", "fingerprint"]).limit(1).to_arrow().to_pylist()
        return {"db": f"lance:{self.uri}", "files": table.count_rows(), "models": held}

    def close(self) -> None:
        """See `Index.close`."""
        if self._facts is not None:
            self._facts.close()
            self._facts = None


def _units(vectors: Sequence[Sequence[float]], dim: int) -> FloatArray:
    return unit_rows([np.asarray(vector, "<f2").tobytes() for vector in vectors], dim)


def _entry(row: dict[str, Any]) -> Entry:
    return Entry(
        row["path"], row["size"], row["mtime_ns"], row["content"], row["width"], row["height"], row["taken"],
        np.asarray(row["vector"], np.float32),
    )  # fmt: skip
