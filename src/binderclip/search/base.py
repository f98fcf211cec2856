"""The protocol of the room: an index stores vectors of files and finds the nearest to what is asked for."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from binderclip.errors import InputError, NeedsExtraError
from binderclip.search.fold import fold_rows
from binderclip.search.query import Term, encode_query, parse_query
from binderclip.search.types import EncoderLike, FloatArray, Hit, Row

if TYPE_CHECKING:
    from binderclip.search.indexer import Report

__all__ = ["RESCORED", "Index", "Query", "load_encoder"]

Query = str | os.PathLike[str] | FloatArray | Sequence[str]

RESCORED = 100  # how many of the scan's best are scored again from the truth, at least


class Index(ABC):
    """Vectors of files: stored, filtered, searched. A backend says how the nearest are found; asking is the same for all.

    ::

        with Index.open("photos.index") as index:
            index.add(["photos"])
            for hit in index.search("a red bicycle", k=5):
                print(hit.path, hit.score)
    """

    @staticmethod
    def open(where: str | os.PathLike[str], encoder: EncoderLike | str | None = None) -> Index:
        """Opens the index of a folder (made by its first `add`), or a table by `lance:URI`.

        Args:
            where: the folder, or `lance:` and the address of a Lance table (extra `lance`).
            encoder: an encoder, a model's name, or None for the model that the index was made with.
        """
        text = os.fspath(where)
        if text.startswith("lance:"):
            from binderclip.search.lance import LanceIndex

            return LanceIndex(text.removeprefix("lance:"), encoder)
        from binderclip.search.index import LocalIndex

        return LocalIndex(text, encoder)

    # -- what a backend gives --------------------------------------------------------------------------------------

    @abstractmethod
    def add(
        self,
        paths: Sequence[str | os.PathLike[str]],
        *,
        ignore: Sequence[str] = (),
        include_hidden: bool = False,
        retry: bool = False,
        dry_run: bool = False,
    ) -> Report:
        """Brings the index up to date with files and folders; what has not changed is not read again.

        Args:
            paths: files and folders.
            ignore: patterns to leave out, as in a .gitignore.
            include_hidden: take names that begin with a dot too.
            retry: read files again that could not be indexed before.
            dry_run: say what would be done, and do nothing.
        """

    @abstractmethod
    def ready(self) -> None:
        """Raises when there is nothing to search, before a model is loaded."""

    @property
    @abstractmethod
    def encoder(self) -> EncoderLike:
        """The encoder whose vectors are searched."""

    @abstractmethod
    def nearest(self, query: FloatArray, k: int, where: str | None = None) -> tuple[list[Row], FloatArray, FloatArray]:
        """The k files nearest to a unit vector [D], fewer if there are fewer; equal cosines in the order of paths.

        Returns:
            (rows, cosines [N], unit vectors [N, D]), best first.
        """

    @abstractmethod
    def rows(self, where: str | None = None) -> Iterator[Row]:
        """The files, in the order of their paths."""

    @abstractmethod
    def vectors(self) -> tuple[list[Row], FloatArray]:
        """The files and their unit vectors [N, D], in the order of their paths."""

    @abstractmethod
    def vector_of(self, path: str | os.PathLike[str]) -> FloatArray | None:
        """The unit vector [D] of a file of the index, or None."""

    @abstractmethod
    def info(self) -> dict[str, Any]:
        """Counts, models and place, as plain values."""

    @abstractmethod
    def close(self) -> None:
        """Lets go of files and locks."""

    # -- asking ------------------------------------------------------------------------------------------------------

    def search(
        self,
        query: Query | Sequence[Term],
        k: int = 10,
        *,
        where: str | None = None,
        min_score: float | str | None = None,
        fold: float | None = None,
        moments: bool = False,
    ) -> list[Hit]:
        """The k best files for a query, best first; of a video, its best frame.

        Args:
            query: a text, the path of a picture, a list of words as typed after `binderclip search`, or a vector [D].
            k: how many.
            where: a filter such as `path~holiday and date>=2024-01 and size>1MB`.
            min_score: leave out hits of a lower cosine; `"auto"`: of a probability under 0.5.
            fold: list pictures whose cosine is at least this under the best of them; None lists each.
            moments: list every frame of a video that is good enough, not its best alone.

        Raises:
            InputError: the query or the filter cannot be read, or `"auto"` with a model that has no calibration.
        """
        self.ready()
        vector, calibrated = self._vector(query)
        if min_score == "auto" and not calibrated:
            raise InputError(
                "--min-score auto needs a text query and a calibrated model: give a number,"
                " or run: binderclip models calibrate NAME DIR"
            )
        return self.search_vector(
            vector, k, where=where, min_score=min_score, fold=fold, calibrated=calibrated, moments=moments
        )

    def search_vector(
        self,
        vector: FloatArray,
        k: int = 10,
        *,
        where: str | None = None,
        min_score: float | str | None = None,
        fold: float | None = None,
        calibrated: bool = False,
        leave_out: str | os.PathLike[str] | None = None,
        moments: bool = False,
    ) -> list[Hit]:
        """`search` for a vector [D].

        Args:
            vector: of any length but 0.
            k: how many.
            where: see `search`.
            min_score: see `search`.
            fold: see `search`.
            calibrated: the vector is a text's, so that a probability means something.
            leave_out: a path that is not to be listed.
            moments: see `search`.
        """
        hidden = None if leave_out is None else os.fsencode(os.path.abspath(leave_out))
        vector = np.asarray(vector, dtype=np.float32)
        vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
        wanted = k + (leave_out is not None) if fold is None else max(4 * k, RESCORED)
        while True:
            rows, cosines, vectors = self.nearest(vector, wanted, where)
            short = len(rows) < wanted
            inside = _listed(rows, hidden, moments)
            if len(inside) < len(rows):
                rows, cosines, vectors = [rows[i] for i in inside], cosines[inside], vectors[inside]
            groups = [[i] for i in range(len(rows))] if fold is None else fold_rows(vectors, fold)
            if len(groups) >= k or short:
                break
            wanted *= 4  # so many near-duplicates that the list is short: look further
        calibration = self.encoder.calibration if calibrated else None
        chances = None if calibration is None else calibration.probability(vector, cosines)
        hits = []
        for group in groups[:k]:
            best = group[0]
            chance = None if chances is None else float(chances[best])
            if _passes(float(cosines[best]), chance, min_score):
                hits.append(Hit(rows[best], float(cosines[best]), chance, tuple(rows[i].path for i in group[1:])))
        return hits

    def _vector(self, query: Query | Sequence[Term]) -> tuple[FloatArray, bool]:
        """The unit vector of a query, and whether a calibration on texts holds for it."""
        if isinstance(query, np.ndarray):
            if query.shape != (self.encoder.dim,):
                raise InputError(f"a query vector of this index has shape ({self.encoder.dim},), not {query.shape}")
            return query, False
        if isinstance(query, os.PathLike):
            if not Path(query).is_file():
                raise InputError(f"no such picture: {query}")
            terms = [Term(os.fspath(query), is_image=True)]
        elif isinstance(query, str):
            terms = parse_query(query)
        else:
            asked = list(query)
            terms = [one for one in asked if isinstance(one, Term)]
            terms = terms or parse_query([str(one) for one in asked])
        calibrated = self.encoder.calibration is not None and all(not t.is_image and t.weight > 0 for t in terms)
        return encode_query(terms, self.encoder), calibrated

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _listed(rows: Sequence[Row], hidden: bytes | None, moments: bool) -> list[int]:
    """Positions of the rows, best first, that a list may hold: of a video its first, unless all moments are wanted."""
    inside, videos = [], set()
    for i, row in enumerate(rows):
        if row.raw_path == hidden or (row.time is not None and not moments and row.raw_path in videos):
            continue
        if row.time is not None:
            videos.add(row.raw_path)
        inside.append(i)
    return inside


def _passes(score: float, chance: float | None, least: float | str | None) -> bool:
    if least is None:
        return True
    if least == "auto":
        return chance is not None and chance >= 0.5
    return score >= float(least)


def load_encoder(name: str, engine: str | None = None) -> EncoderLike:
    """The encoder of a model's name; the one place of the room that knows the engine."""
    try:
        from binderclip.engine import Encoder
    except ModuleNotFoundError as error:  # pragma: no cover - an incomplete installation
        raise NeedsExtraError("encoding", "torch") from error
    encoder: EncoderLike = Encoder(name, engine=engine)
    return encoder
