"""The one writer of an index: batches of files and vectors, each committed whole."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from binderclip.errors import IndexStateError
from binderclip.search import schema
from binderclip.search.lock import WriteLock
from binderclip.search.store import Entry, Model, Problem, Store, show_path
from binderclip.search.types import FloatArray

__all__ = ["Writer"]


class Writer(Store):
    """The SQLite file of an index, for the one process that may write it.

    Args:
        folder: where the index is, or is to be made.
        wait: seconds to wait for another writer.
        on_wait: called with who writes, when waiting starts.

    Raises:
        IndexLockedError: another process writes, and did not finish in `wait` seconds.
        IndexStateError: the folder cannot be written, or holds an index of a newer schema.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, wait: float = 0.0, on_wait: Callable[[str], None] | None = None
    ) -> None:
        self.folder = Path(folder)
        self.file = self.folder / "index.sqlite3"
        self._turn = threading.Lock()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = WriteLock(self.folder / "write.lock", wait, on_wait)
        except OSError as error:
            raise IndexStateError(f"{self.folder} cannot be written ({error.strerror}): choose another --db") from None
        try:
            self._link = schema.connect(self.file)
            schema.prepare(self._link)
        except BaseException:
            self._lock.release()
            raise

    def add_model(self, fingerprint: str, name: str, dim: int) -> Model:
        """Makes a model known and the one that searches use; returns it."""
        with schema.transaction(self._link):
            self._link.execute(
                "INSERT OR IGNORE INTO models (fingerprint, name, dim) VALUES (?, ?, ?)", (fingerprint, name, dim)
            )
            self._link.execute("UPDATE meta SET value=? WHERE key='model'", (fingerprint,))
        model = self.model(fingerprint)
        assert model is not None
        return model

    def add_roots(self, paths: Iterable[bytes]) -> None:
        """Remembers what was asked to be indexed."""
        with schema.transaction(self._link):
            self._link.executemany("INSERT OR IGNORE INTO roots VALUES (?)", [(path,) for path in paths])

    def commit(self, model: Model, entries: Sequence[Entry], problems: Sequence[Problem] = ()) -> None:
        """Writes one batch: files, contents, vectors and problems, all of them or none."""
        with schema.transaction(self._link):
            for entry in entries:
                self._put(model, entry)
            for problem in problems:
                self._link.execute("DELETE FROM files WHERE path=?", (problem.path,))
                self._link.execute(
                    "INSERT OR REPLACE INTO problems VALUES (?, ?, ?, ?)",
                    (problem.path, problem.size, problem.mtime_ns, problem.reason),
                )
            self._bump("generation")

    def _put(self, model: Model, entry: Entry) -> None:
        run = self._link.execute
        if entry.vector is not None:
            run(
                "INSERT OR IGNORE INTO contents (hash, width, height, taken) VALUES (?, ?, ?, ?)",
                (entry.content, entry.width, entry.height, entry.taken),
            )
        (content,) = run("SELECT id FROM contents WHERE hash=?", (entry.content,)).fetchone()
        if entry.vector is not None:
            blob = np.asarray(entry.vector, dtype="<f2").tobytes()
            run("INSERT OR IGNORE INTO vectors (content, model, vector) VALUES (?, ?, ?)", (content, model.id, blob))
        self._put_file(entry, content)

    def commit_frames(
        self, model: Model, entry: Entry, times: Sequence[float], vectors: FloatArray, *, whole: bool
    ) -> None:
        """Writes a video and some of its frames, all of it or nothing; until it is `whole`, it is known not to be.

        Args:
            model: whose vectors.
            entry: the video, without a vector.
            times: N of frames, in seconds.
            vectors: of those frames, unit rows [N, D].
            whole: these are the last.
        """
        run = self._link.execute
        with schema.transaction(self._link):
            run(
                "INSERT OR IGNORE INTO contents (hash, width, height, taken) VALUES (?, ?, ?, ?)",
                (entry.content, entry.width, entry.height, entry.taken),
            )
            (content,) = run("SELECT id FROM contents WHERE hash=?", (entry.content,)).fetchone()
            if whole:
                run("DELETE FROM unfinished WHERE content=? AND model=?", (content, model.id))
            else:
                run("INSERT OR IGNORE INTO unfinished VALUES (?, ?)", (content, model.id))
            blobs = np.asarray(vectors, dtype="<f2")
            self._link.executemany(
                "INSERT OR IGNORE INTO vectors (content, model, time, vector) VALUES (?, ?, ?, ?)",
                [(content, model.id, time, blob.tobytes()) for time, blob in zip(times, blobs, strict=True)],
            )
            self._put_file(entry, content)
            self._bump("generation")

    def _put_file(self, entry: Entry, content: int) -> None:
        run = self._link.execute
        run(
            "INSERT INTO files (path, shown, content, size, mtime_ns) VALUES (?, ?, ?, ?, ?) ON CONFLICT (path) DO UPDATE"
            " SET content=excluded.content, size=excluded.size, mtime_ns=excluded.mtime_ns, state=0",
            (entry.path, show_path(entry.path), content, entry.size, entry.mtime_ns),
        )
        run("DELETE FROM problems WHERE path=?", (entry.path,))

    def mark(self, paths: Iterable[bytes], *, missing: bool) -> None:
        """Marks files as missing, or as there again; problems of missing files are forgotten."""
        some = [(path,) for path in paths]
        if not some:
            return
        with schema.transaction(self._link):
            self._link.executemany(f"UPDATE files SET state={int(missing)} WHERE path=?", some)  # noqa: S608
            if missing:
                self._link.executemany("DELETE FROM problems WHERE path=?", some)
            self._bump("generation")

    def remove(self, paths: Iterable[bytes]) -> int:
        """Takes paths out of the index (never off the disk); returns how many there were."""
        some = [(path,) for path in paths]
        with schema.transaction(self._link):
            before = self._link.total_changes
            self._link.executemany("DELETE FROM files WHERE path=?", some)
            removed = self._link.total_changes - before
            self._link.executemany("DELETE FROM problems WHERE path=?", some)
            self._link.executemany("DELETE FROM roots WHERE path=?", some)
            self._bump("generation")
        return removed

    def prune(self, keep_models: Iterable[str] | None = None) -> dict[str, int]:
        """Forgets missing files, contents that no file holds, and models not in `keep_models` (None: all are kept)."""
        run = self._link.execute
        with schema.transaction(self._link):
            removed = {"files": run("DELETE FROM files WHERE state=1").rowcount}
            orphan = "content NOT IN (SELECT content FROM files)"
            removed["vectors"] = run(f"DELETE FROM vectors WHERE {orphan}").rowcount  # noqa: S608
            run(f"DELETE FROM unfinished WHERE {orphan}")  # noqa: S608
            if keep_models is not None:
                keep = set(keep_models)
                for model in self.models():
                    if model.fingerprint not in keep:
                        removed["vectors"] += run("DELETE FROM vectors WHERE model=?", (model.id,)).rowcount
                        run("DELETE FROM unfinished WHERE model=?", (model.id,))
                        run("DELETE FROM models WHERE id=?", (model.id,))
            run("DELETE FROM contents WHERE id NOT IN (SELECT content FROM files)")
            self._bump("generation")
            self._bump("removals")
        self._link.execute("VACUUM")
        return removed

    def _bump(self, key: str) -> None:
        self._link.execute("UPDATE meta SET value=value+1 WHERE key=?", (key,))

    def close(self) -> None:
        """Closes the file and lets the next writer in."""
        super().close()
        self._lock.release()
