"""Vectors that were made once, to be used many times: ids, labels and a matrix that cannot be changed.

Randomness over rows is a function of the id, never of an order: with u(id) = hash64(seed, id) / 2^64, a row is in the same
part whatever other rows there are, however they are sharded, and in any two tables that share ids.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from binderclip.data.hashing import hash64, uniform
from binderclip.errors import InputError, NeedsExtraError

__all__ = ["Embeddings", "hash64", "natural_order", "read_metadata", "uniform"]

FloatArray = NDArray[np.float32]
Labels = NDArray[Any]


class _HasVectors(Protocol):
    """An index, as far as this layer knows one."""

    def vectors(self) -> tuple[Sequence[Any], FloatArray]: ...


@dataclass(frozen=True, eq=False)
class Embeddings:
    """A read-only table of vectors.

    Args:
        ids: N names, each once (paths, row ids).
        matrix: unit rows [N, D], float32.
        labels: [N] of any kind, or None.
        fingerprint: of the model that made the vectors; empty when nobody knows.
        raw: the same rows before they were brought to length 1 [N, D], where they are known.

    Raises:
        InputError: shapes differ, an id comes twice, or a row has no direction.
    """

    ids: tuple[str, ...]
    matrix: FloatArray
    labels: Labels | None = None
    fingerprint: str = ""
    raw: FloatArray | None = None
    _at: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        at = {key: i for i, key in enumerate(self.ids)}
        if self.matrix.ndim != 2 or len(self.matrix) != len(self.ids):
            raise InputError(f"{len(self.ids)} ids do not fit a matrix of shape {self.matrix.shape}: give [N, D]")
        if len(at) != len(self.ids):
            raise InputError(f"{len(self.ids) - len(at)} ids come more than once: make them unique")
        for name, column in (("labels", self.labels), ("raw", self.raw)):
            if column is not None and len(column) != len(self.ids):
                raise InputError(f"{len(column)} {name} do not fit {len(self.ids)} ids")
        object.__setattr__(self, "_at", at)
        for column in (self.matrix, self.labels, self.raw):
            if column is not None:
                column.setflags(write=False)

    # -- opening -------------------------------------------------------------------------------------------------

    @classmethod
    def from_arrays(
        cls,
        ids: Sequence[str],
        vectors: NDArray[Any],
        *,
        labels: Sequence[Any] | Labels | None = None,
        fingerprint: str = "",
        keep_raw: bool = False,
    ) -> Embeddings:
        """Takes vectors [N, D] from memory and brings a copy of them to length 1.

        Args:
            ids: N names.
            vectors: any floating type.
            labels: one each, or None.
            fingerprint: of the model that made the vectors.
            keep_raw: keep the vectors as they were too.

        Raises:
            InputError: shapes differ, an id comes twice, or a row is zero or not finite.
        """
        raw = np.array(vectors, dtype=np.float32)
        if raw.ndim != 2:
            raise InputError(f"vectors have shape {raw.shape}: give [N, D]")
        norms = np.linalg.norm(raw, axis=1, keepdims=True)
        lost = np.flatnonzero(~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)))
        if len(lost):
            raise InputError(f"{len(lost)} vectors are zero or not finite, the first is row {lost[0]}: leave them out")
        own = None if labels is None else np.array(labels)
        return cls(tuple(ids), raw / norms, own, fingerprint, raw if keep_raw else None)

    @classmethod
    def from_index(cls, index: _HasVectors, label: Callable[[Any], Any] | None = None) -> Embeddings:
        """Takes all vectors of an index; ids are paths.

        Args:
            index: anything with `vectors() -> (rows, matrix)` whose rows have a `path`.
            label: a row's label, as in `lambda row: Path(row.path).parent.name`.
        """
        rows, matrix = index.vectors()
        labels = None if label is None else [label(row) for row in rows]
        fingerprint = str(getattr(getattr(index, "encoder", None), "fingerprint", ""))
        return cls.from_arrays([row.path for row in rows], matrix, labels=labels, fingerprint=fingerprint)

    @classmethod
    def from_folder(
        cls,
        folder: str | os.PathLike[str],
        *,
        kind: str = "img",
        id_column: str = "image_path",
        label_column: str | None = None,
    ) -> Embeddings:
        """Reads `{kind}_emb/{kind}_emb_*.npy` and `metadata/metadata_*.parquet` (or `.jsonl`), clip-retrieval's layout.

        Args:
            folder: what holds the two.
            kind: "img" or "text".
            id_column: of the metadata; rows without it are named by their number.
            label_column: of the metadata, or None.

        Raises:
            InputError: no such files, or their lengths differ.
            NeedsExtraError: Parquet without pyarrow.
        """
        place = Path(folder)
        parts = natural_order((place / f"{kind}_emb").glob("*.npy"))
        if not parts:
            raise InputError(
                f"{place} has no {kind}_emb/*.npy: name a folder made by 'binderclip embed' or clip-retrieval"
            )
        blocks, table = [], []
        for part in parts:
            blocks.append(np.load(part, mmap_mode="r", allow_pickle=False))
            suffix = part.stem.rsplit("_", 1)[-1]
            rows = read_metadata(place / "metadata", suffix)
            if rows is not None and len(rows) != len(blocks[-1]):
                raise InputError(f"{part} has {len(blocks[-1])} rows and its metadata {len(rows)}: make the part again")
            table += rows if rows is not None else [{} for _ in range(len(blocks[-1]))]
        ids = [str(row.get(id_column, number)) for number, row in enumerate(table)]
        labels = None if label_column is None else [row.get(label_column) for row in table]
        facts = place / "info.json"
        about = json.loads(facts.read_text("utf-8")) if facts.is_file() else {}
        return cls.from_arrays(
            ids, np.concatenate(blocks), labels=labels, fingerprint=str(about.get("fingerprint", "")), keep_raw=True
        )

    # -- using ---------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, key: object) -> bool:
        return key in self._at

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    @property
    def dim(self) -> int:
        """Length D of a vector."""
        return int(self.matrix.shape[1])

    def vector(self, key: str) -> FloatArray:
        """The unit vector [D] of an id.

        Raises:
            InputError: there is no such id.
        """
        if key not in self._at:
            raise InputError(f"no vector of {key!r}: see .ids for what is there")
        row: FloatArray = self.matrix[self._at[key]]
        return row

    def select(self, which: Sequence[str] | NDArray[Any]) -> Embeddings:
        """Some rows, in the order asked for: by ids, by positions, or by a mask [N].

        Raises:
            InputError: an id is not there.
        """
        wanted = np.asarray(which)
        if wanted.dtype.kind in "USO" and wanted.size:
            lost = [key for key in which if key not in self._at]
            if lost:
                raise InputError(f"{len(lost)} ids are not there, the first is {lost[0]!r}")
            rows = np.array([self._at[key] for key in which], dtype=np.intp)
        else:
            rows = np.flatnonzero(wanted) if wanted.dtype == bool else wanted.astype(np.intp)
        return Embeddings(
            tuple(self.ids[i] for i in rows),
            self.matrix[rows],
            None if self.labels is None else self.labels[rows],
            self.fingerprint,
            None if self.raw is None else self.raw[rows],
        )

    def split(self, shares: Mapping[str, float], seed: int = 0) -> dict[str, Embeddings]:
        """Parts by the hash of the ids: row i is in the part whose interval of [0, 1) holds hash64(seed, id) / 2^64.

        Args:
            shares: name -> share; together at most 1. What is over is in no part.
            seed: another seed, another partition.

        Raises:
            InputError: a share is negative, or they are more than 1 together.
        """
        edges = np.cumsum([0.0, *shares.values()])
        if min(shares.values(), default=0.0) < 0 or edges[-1] > 1 + 1e-9:
            raise InputError(f"shares {dict(shares)} are negative or more than 1 together")
        u = uniform(seed, self.ids)
        return {
            name: self.select((u >= low) & (u < high))
            for name, low, high in zip(shares, edges[:-1], edges[1:], strict=True)
        }

    def zip(self, other: Embeddings) -> tuple[Embeddings, Embeddings]:
        """The rows that two tables share by id, in this one's order: (these, the other's)."""
        shared = [key for key in self.ids if key in other]
        rows = np.array([self._at[key] for key in shared], dtype=np.intp)
        there = np.array([other._at[key] for key in shared], dtype=np.intp)
        return self.select(rows), other.select(there)


def natural_order(paths: Any) -> list[Path]:
    """Paths by their names with numbers as numbers: part 2 before part 10."""
    return sorted(
        paths,
        key=lambda path: [(int(bit), "") if bit.isdigit() else (-1, bit) for bit in re.split(r"(\d+)", path.name)],
    )


def read_metadata(folder: Path, suffix: str) -> list[dict[str, Any]] | None:
    """Rows of `metadata_{suffix}.parquet` or `.jsonl`, or None when there is neither.

    Raises:
        InputError: the file cannot be read.
        NeedsExtraError: it is Parquet and pyarrow is not installed.
    """
    parquet, lines = folder / f"metadata_{suffix}.parquet", folder / f"metadata_{suffix}.jsonl"
    try:
        if parquet.is_file():
            try:
                from pyarrow import ArrowException
                from pyarrow.parquet import read_table
            except ImportError:
                raise NeedsExtraError("reading Parquet", "train") from None
            try:
                found: list[dict[str, Any]] = read_table(parquet).to_pylist()
            except ArrowException as error:
                raise InputError(f"{parquet} cannot be read ({str(error).splitlines()[0]}): make it again") from None
            return found
        if lines.is_file():
            return [json.loads(line) for line in lines.read_text("utf-8").splitlines() if line]
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{parquet.stem} cannot be read ({error}): make it again") from None
    return None
