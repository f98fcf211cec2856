"""CSV, TSV and JSON lines: one pass notes where each row begins, then any row is one seek away."""

from __future__ import annotations

import csv
import itertools
import os
import threading
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from binderclip.data.pairs import Bad, Pair, RowPairs
from binderclip.data.sources.fields import guess_columns, pair_of, record_of_json
from binderclip.errors import InputError

__all__ = ["TablePairs"]

_MOST_FIELD = 1 << 24  # characters of one CSV cell: base64 pictures are refused long before memory is


class TablePairs(RowPairs):
    """A table in a text file (UTF-8), eight bytes of memory a row.

    Args:
        path: of the .csv, .tsv or .jsonl file.
        kind: "csv", "tsv" or "jsonl"; by the suffix otherwise. A .csv may use semicolons.
        columns: field -> column where the guess is wrong.
        root: what relative paths start from; the file's own folder otherwise.

    Raises:
        InputError: the file cannot be read, has no rows, or no column of pictures.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        kind: str | None = None,
        columns: Mapping[str, str] | None = None,
        root: str | os.PathLike[str] | None = None,
    ) -> None:
        self.path = Path(path)
        super().__init__(self.path.stem)
        self.kind = kind or self.path.suffix.lower().lstrip(".").replace("ndjson", "jsonl")
        self.root = os.fspath(root if root is not None else self.path.parent)
        self._starts = array("q")
        self._lock = threading.Lock()
        try:
            self._stream: BinaryIO = open(self.path, "rb")  # noqa: SIM115 - held open for seeking
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror}") from None
        if self.kind == "jsonl":
            self._index_lines()
            names = self._names_of_lines()
        else:
            names = self._index_csv()
        if not self._starts:
            raise InputError(f"{self.path} has no rows: it needs a line of column names and a line a row")
        self.columns = guess_columns(names, columns, self.path.name)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self._starts)

    def row(self, number: int) -> Pair | Bad:
        """Row 0 ... rows - 1."""
        key = str(number)
        with self._lock:  # rows are read by one thread at a time, media by many
            self._stream.seek(self._starts[number])
            try:
                record = self._record()
            except InputError as error:
                return Bad(key, str(error))
        return pair_of(record, self.columns, id=key, root=self.root, source=self.name)

    def __del__(self) -> None:
        if hasattr(self, "_stream"):
            self._stream.close()

    def _record(self) -> Mapping[str, object]:
        if self.kind == "jsonl":
            return record_of_json(self._stream.readline().decode("utf-8", "surrogateescape"))
        try:
            cells = next(csv.reader(_Lines(self._stream), delimiter=self._delimiter), [])
        except csv.Error:
            raise InputError("its line is damaged") from None
        if len(cells) != len(self._header):
            raise InputError(f"its line has {'fewer' if len(cells) < len(self._header) else 'more'} cells than columns")
        return dict(zip(self._header, cells, strict=True))

    def _index_csv(self) -> list[str]:
        csv.field_size_limit(_MOST_FIELD)
        lines = _Lines(self._stream)
        first = next(lines, "")
        self._delimiter = "\t" if self.kind == "tsv" else max(",;\t", key=first.count)
        try:
            self._header = next(csv.reader([first.rstrip("\r\n")], delimiter=self._delimiter), [])
        except csv.Error:
            raise InputError(f"the first line of {self.path} is damaged: it must hold the column names") from None
        reader = csv.reader(lines, delimiter=self._delimiter)
        while True:
            start = lines.at
            try:
                cells = next(reader)
            except StopIteration:
                return self._header
            except csv.Error:
                reader = csv.reader(lines, delimiter=self._delimiter)
                cells = ["damaged"]
            if cells:
                self._starts.append(start)

    def _index_lines(self) -> None:
        at = 0
        for line in self._stream:
            if line.strip():
                self._starts.append(at)
            at += len(line)

    def _names_of_lines(self) -> list[str]:
        """Columns of the first hundred rows that can be read: JSON lines may leave keys out."""
        names: dict[str, None] = {}
        self._stream.seek(0)
        for line in itertools.islice(self._stream, 100):
            try:
                names |= dict.fromkeys(record_of_json(line))
            except InputError:
                continue
        return list(names)


class _Lines(Iterator[str]):
    """Lines of a binary file as text, and the offset of the next one."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.at = stream, stream.tell()

    def __next__(self) -> str:
        line = self.stream.readline()
        if not line:
            raise StopIteration
        if self.at == 0:
            line_text = line.decode("utf-8-sig", "surrogateescape")
        else:
            line_text = line.decode("utf-8", "surrogateescape")
        self.at += len(line)
        return line_text
