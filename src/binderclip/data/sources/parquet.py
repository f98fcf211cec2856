"""Parquet files: a shard is a row group, so that a file of any size is read in pieces."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from binderclip.data.pairs import Bad, Pair, ShardPairs
from binderclip.data.sources.fields import guess_columns, pair_of, record_of_json
from binderclip.errors import InputError, NeedsExtraError

__all__ = ["ParquetPairs", "class_names", "pyarrow_module", "record_at"]

_ROWS = 64  # of one piece in memory: pictures are some 100 KB each


class ParquetPairs(ShardPairs):
    """Rows of one or more Parquet files of the same columns; pictures as bytes, as {"bytes", "path"} or as paths.

    Args:
        paths: of the files.
        name: of the source.
        columns: field -> column where the guess is wrong.
        root: what relative paths start from; the first file's folder otherwise.

    Raises:
        InputError: no file can be read, or no column of pictures.
        NeedsExtraError: pyarrow is not installed.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        name: str,
        *,
        columns: Mapping[str, str] | None = None,
        root: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(name)
        pyarrow = pyarrow_module("reading Parquet")
        import pyarrow.parquet as pq

        self.root = os.fspath(root if root is not None else Path(paths[0]).parent)
        groups: list[tuple[str, int, int]] = []
        damaged: list[str] = []
        schema = None
        for path in [os.fspath(path) for path in paths]:
            try:
                about = pq.ParquetFile(path)
                if about.metadata.num_rows != sum(
                    about.metadata.row_group(g).num_rows for g in range(about.num_row_groups)
                ):
                    raise OSError("its row groups do not add up")
                schema = schema or about.schema_arrow
                groups += [(path, g, about.metadata.row_group(g).num_rows) for g in range(about.num_row_groups)]
            except (OSError, pyarrow.ArrowException):
                damaged.append(path)
        if schema is None:
            raise InputError(f"{damaged[0]} is no Parquet file that can be read: make it again")
        if damaged:
            self.notes.append(f"{len(damaged)} of {len(paths)} Parquet files cannot be read, the first is {damaged[0]}")
            self.skipped["a Parquet file cannot be read"] = len(damaged)
        self._groups = groups
        self.shards = tuple(f"{path}#{group}" for path, group, _ in groups)
        self.columns = guess_columns(schema.names, columns, Path(paths[0]).name)
        self.classes = class_names(schema, self.columns.get("label"))

    def rows_in(self, shard: int) -> int:
        """How many rows a row group has."""
        return self._groups[shard][2]

    def read(self, shard: int, start: int = 0, step: int = 1) -> Iterator[Pair | Bad]:
        """Rows start, start + step, ... of a row group."""
        import pyarrow
        import pyarrow.parquet as pq

        path, group, _ = self._groups[shard]
        prefix = f"{Path(path).stem}/{group}/"
        number = 0
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(_ROWS, row_groups=[group], use_threads=False):
                    first = start + -(-max(number - start, 0) // step) * step  # the first wanted row from here on
                    chosen = list(range(first - number, batch.num_rows, step))
                    for at in chosen:
                        key, record = f"{prefix}{number + at}", record_at(batch, at)
                        if record is None:
                            yield Bad(key, "its values are damaged")
                            continue
                        yield pair_of(record, self.columns, id=key, root=self.root, source=self.name)
                    number += batch.num_rows
            if number != self.rows_in(shard):
                yield Bad(self.shards[shard], "a row group of another length than its file says")
        except (OSError, pyarrow.ArrowException):
            yield Bad(self.shards[shard], "the rest of a damaged row group")


def record_at(table: Any, row: int) -> dict[str, Any] | None:
    """A row of an arrow table or batch, or None when its bytes make no sense: the file may be damaged where we look."""
    try:
        one = table.slice(row, 1)
        one.validate(full=True)
        found: dict[str, Any] = one.to_pylist()[0]
    except Exception:  # ArrowInvalid, UnicodeDecodeError, SystemError, OverflowError: whatever the bytes lead to
        return None
    return found


def class_names(schema: Any, column: str | None) -> tuple[str, ...]:
    """Names of the classes of an integer label column, from the note that Hugging Face leaves in the schema."""
    note = (schema.metadata or {}).get(b"huggingface")
    if note is None or column is None:
        return ()
    try:
        feature = record_of_json(note).get("info", {}).get("features", {}).get(column, {})
        names = feature.get("names") or ()
    except (InputError, AttributeError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


def pyarrow_module(what: str) -> Any:
    """pyarrow, or one line that names the install."""
    try:
        import pyarrow
    except ImportError:
        raise NeedsExtraError(what, "train") from None
    return pyarrow
