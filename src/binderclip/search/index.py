"""The index of a folder: SQLite is the truth, an int8 file makes it fast."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from binderclip.data.media import IMAGE_SUFFIXES, OPTIONAL_SUFFIXES
from binderclip.data.video import VIDEO_SUFFIXES
from binderclip.errors import IndexStateError, InputError
from binderclip.search.base import RESCORED, Index, load_encoder
from binderclip.search.cache import Cache, load_cache
from binderclip.search.indexer import Plan, Progress, Report, is_below, make_plan, run_plan
from binderclip.search.scan import Scan, scan
from binderclip.search.schema import plain_errors
from binderclip.search.store import Model, Store, show_path, unit_rows
from binderclip.search.types import EncoderLike, FloatArray, Row
from binderclip.search.where import SQL_FUNCTIONS, parse_where
from binderclip.search.writer import Writer

__all__ = ["Index", "LocalIndex"]

DEFAULT_MODEL = "pocket"


class LocalIndex(Index):
    """An index in a folder of this machine. `Index.open(folder)` makes one.

    Args:
        folder: where the index is; it is made by the first `add`.
        encoder: an encoder, a model's name, or None for the model that the index was made with.
        engine: that runs it, as `Encoder` takes it.
    """

    def __init__(
        self, folder: str | os.PathLike[str], encoder: EncoderLike | str | None = None, *, engine: str | None = None
    ) -> None:
        self.folder = Path(folder)
        self._asked, self._engine = encoder, engine
        self._encoder: EncoderLike | None = None
        self._store: Store | None = None
        self._cache: Cache | None = None

    # -- writing -----------------------------------------------------------------------------------------------------

    @plain_errors()
    def add(
        self,
        paths: Sequence[str | os.PathLike[str]],
        *,
        ignore: Sequence[str] = (),
        include_hidden: bool = False,
        retry: bool = False,
        dry_run: bool = False,
        batch: int = 32,
        threads: int | None = None,
        every: float = 1.0,
        wait: float = 0.0,
        on_wait: Callable[[str], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        on_bad: Callable[[str, str], None] | None = None,
    ) -> Report:
        """Brings the index up to date with files and folders; what has not changed is not read again.

        Args:
            paths: files and folders.
            ignore: patterns to leave out, as in a .gitignore.
            include_hidden: take names that begin with a dot too.
            retry: read files again that could not be indexed before.
            dry_run: say what would be done, and do nothing.
            batch: pictures encoded and committed together.
            threads: that read and decode; the default is one per core, at most 8.
            every: seconds between the frames that are taken of a video.
            wait: seconds to wait for another writer.
            on_wait: called with who writes, when waiting starts.
            on_progress: called after each batch.
            on_bad: called with (path, reason) of each file that cannot be indexed.

        Raises:
            InputError: none of the paths is there, or `every` is no span of time.
            IndexLockedError: another process writes.
        """
        if isinstance(paths, str | os.PathLike):
            paths = [paths]
        if not (math.isfinite(every) and every > 0):
            raise InputError(f"every={every}: give the seconds between two frames of a video, more than 0")
        optional = OPTIONAL_SUFFIXES | dict.fromkeys(VIDEO_SUFFIXES, "video")
        found = scan(paths, IMAGE_SUFFIXES, optional, ignore=ignore, include_hidden=include_hidden)
        if not found.roots and not self._holds_any(found.absent):
            raise InputError(f"no such file or folder: {', '.join(show_path(path) for path in found.absent)}")
        if dry_run:
            report = self._dry_run(found, retry)
        else:
            encoder = self.encoder
            with Writer(self.folder, wait=wait, on_wait=on_wait) as writer:
                # A checkpoint's folder is remembered so that it is found from anywhere.
                name = os.path.abspath(encoder.name) if os.path.isdir(encoder.name) else encoder.name
                model = writer.add_model(encoder.fingerprint, name, encoder.dim)
                writer.add_roots(found.roots)
                plan = make_plan(found, writer.known(model.id), writer.problems(), retry=retry)
                report = run_plan(
                    writer, model, encoder, plan, batch=batch, threads=threads, every=every, on_progress=on_progress,
                    on_bad=on_bad,
                )  # fmt: skip
                self._cache = load_cache(writer, model, self._cache)
        report.absent = [show_path(path) for path in found.absent]
        report.unreadable = [(show_path(path), reason) for path, reason in found.unreadable.items()]
        for extra, count in found.needs.items():
            report.needs[extra] = report.needs.get(extra, 0) + count
        report.found += sum(found.needs.values())
        return report

    def _holds_any(self, roots: Sequence[bytes]) -> bool:
        if not (self.folder / "index.sqlite3").is_file():
            return False
        return bool(set(roots) & set(self.store.roots()))

    def _dry_run(self, found: Scan, retry: bool) -> Report:
        plan = Plan(read=found.files)
        if (self.folder / "index.sqlite3").is_file():
            model = self.store.model(self.encoder.fingerprint)
            plan = make_plan(found, self.store.known(model.id if model else -1), self.store.problems(), retry=retry)
        report = Report(found=len(found.files), encoded=len(plan.read), unchanged=plan.unchanged)
        report.back, report.missing = len(plan.back), len(plan.missing)
        report.kept = [show_path(path) for path in plan.kept]
        report.known_bad = [(show_path(problem.path), problem.reason) for problem in plan.known_bad]
        return report

    @plain_errors()
    def remove(self, paths: Sequence[str | os.PathLike[str]], *, wait: float = 0.0) -> int:
        """Takes files, and all below folders, out of the index, never off the disk; returns how many."""
        roots = [os.fsencode(os.path.abspath(os.path.expanduser(os.fspath(path)))) for path in paths]
        with Writer(self.folder, wait=wait) as writer:
            held = [*writer.known(-1), *(problem.path for problem in writer.problems()), *writer.roots()]
            return writer.remove([path for path in held if any(is_below(path, root) for root in roots)])

    @plain_errors()
    def prune(self, *, models: bool = False, wait: float = 0.0) -> dict[str, int]:
        """Forgets missing files and vectors that no file needs; with `models`, those of all models but the one in use."""
        with Writer(self.folder, wait=wait) as writer:
            return writer.prune([writer.meta("model")] if models else None)

    # -- reading -----------------------------------------------------------------------------------------------------

    @property
    def store(self) -> Store:
        """The SQLite file, opened for reading."""
        if self._store is None:
            with plain_errors():
                self._store = Store(self.folder)
            for name, function in SQL_FUNCTIONS.items():
                self._store.define(name, function)
        return self._store

    @property
    def encoder(self) -> EncoderLike:
        """The encoder whose vectors are searched."""
        if self._encoder is None:
            asked = self._asked
            if asked is None:
                asked = self._model_name() or DEFAULT_MODEL
            self._encoder = load_encoder(asked, self._engine) if isinstance(asked, str) else asked
        return self._encoder

    @plain_errors()
    def ready(self) -> None:
        """See `Index.ready`."""
        if not any(model.filled for model in self.store.models()):
            raise IndexStateError(f"the index at {self.folder} is empty: fill it with: binderclip index PATH")

    def _model_name(self) -> str | None:
        if not (self.folder / "index.sqlite3").is_file():
            return None
        model = self.store.model(self.store.meta("model"))
        return model.name if model else None

    @property
    def model(self) -> Model:
        """The model in use. Where no text or picture has to be encoded, no encoder is loaded to know it.

        Raises:
            IndexStateError: the index has no vectors of the encoder; the message names the command that makes them.
        """
        any_will_do = self._asked is None and self._encoder is None
        model = self.store.model(self.store.meta("model") if any_will_do else self.encoder.fingerprint)
        others = [other for other in self.store.models() if other.filled]
        if model is not None and (model.filled or not others):
            return model
        if not others:
            raise IndexStateError(f"the index at {self.folder} is empty: fill it with: binderclip index PATH")
        held = ", ".join(f"{other.name} ({other.fingerprint[:12]})" for other in others)
        again = ["binderclip", "index", *self.roots(), "--model", self.encoder.name, "--db", str(self.folder)]
        raise IndexStateError(
            f"the index holds vectors of {held}, none of {self.encoder.name} ({self.encoder.fingerprint[:12]}):"
            f" re-encode with: {shlex.join(again)}"
        )

    def roots(self) -> list[str]:
        """What was indexed, without what lies below another of them."""
        roots = self.store.roots()
        return [show_path(one) for one in roots if not any(one != other and is_below(one, other) for other in roots)]

    @plain_errors()
    def nearest(self, query: FloatArray, k: int, where: str | None = None) -> tuple[list[Row], FloatArray, FloatArray]:
        """See `Index.nearest`: int8 scan, then the best scored again from the fp16 truth."""
        model, condition = self.model, parse_where(where)
        self._cache = cache = load_cache(self.store, model, self._cache)
        allowed = self.store.allowed(model, condition.sql, condition.values) if where else None
        wanted, available = max(RESCORED, 2 * k), len(cache if allowed is None else allowed)
        while True:
            ids = cache.nearest(query, wanted, allowed)
            with self.store.reading():
                files = self.store.files_of(ids.tolist(), condition.sql, condition.values)
                ids = np.array([key for key in ids if int(key) in files], dtype=np.int64)
                if sum(len(files[int(key)]) for key in ids) >= k or wanted >= available:
                    vectors = self.store.vectors_of(ids.tolist(), model.dim)
                    break
            wanted *= 8  # many vectors of files that are gone: look further
        cosines = vectors @ query  # [C]
        order = [(-float(cosines[i]), row.raw_path, i, row) for i, key in enumerate(ids) for row in files[int(key)]]
        best = sorted(order, key=lambda one: one[:2])[:k]
        chosen = [i for _, _, i, _ in best]
        return [row for *_, row in best], cosines[chosen], vectors[chosen]

    def rows(self, where: str | None = None) -> Iterator[Row]:
        """See `Index.rows`."""
        condition = parse_where(where)
        with plain_errors():
            yield from self.store.rows(condition.sql, condition.values)

    @plain_errors()
    def vectors(self, *, moments: bool = False) -> tuple[list[Row], FloatArray]:
        """See `Index.vectors`. A video is one row, the mean of its frames; with `moments`, each frame is one."""
        model = self.model
        found = list(self.store.rows_with_vectors(model, moments=moments))
        return [row for row, _ in found], unit_rows([blob for _, blob in found], model.dim)

    @plain_errors()
    def vector_of(self, path: str | os.PathLike[str]) -> FloatArray | None:
        """See `Index.vector_of`."""
        raw = os.fsencode(os.path.abspath(os.path.expanduser(os.fspath(path))))
        return self.store.vector_of_path(raw, self.model)

    @plain_errors()
    def info(self) -> dict[str, Any]:
        """See `Index.info`."""
        store = self.store
        size = sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())
        used = store.meta("model")
        models = [
            {
                "name": m.name,
                "fingerprint": m.fingerprint,
                "dim": m.dim,
                "vectors": store.vector_count(m),
                "frames": store.frame_count(m),
                "unfinished": store.unfinished(m),
                "in_use": m.fingerprint == used,
            }
            for m in store.models()
        ]
        return {
            "db": str(self.folder),
            **store.counts(),
            "models": models,
            "roots": [show_path(root) for root in store.roots()],
            "bytes": size,
            "generation": int(store.meta("generation")),
        }

    @plain_errors()
    def unencoded(self) -> tuple[int, list[str]]:
        """How many files wait for vectors of the model in use, and the roots they came from."""
        model = self.model
        if len(self.store.models()) == 1 and not self.store.unfinished(model):
            return 0, []  # a file is committed with its vector: only a second model, or half a video, can lag behind
        return self.store.unencoded(model), self.roots()

    @plain_errors()
    def verify(self, *, deep: bool = False) -> list[str]:
        """What is wrong with the index, a line each; empty when it is whole. `deep` reads every file again."""
        from binderclip.search.verify import verify

        return verify(self.store, deep=deep)

    def close(self) -> None:
        """See `Index.close`."""
        if self._store is not None:
            self._store.close()
            self._store = None
        self._cache = None
