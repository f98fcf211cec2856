"""A Hugging Face dataset on disk: arrow files, mapped into memory, read without the `datasets` library."""

from __future__ import annotations

import bisect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from binderclip.data.pairs import Bad, Pair, RowPairs
from binderclip.data.sources.fields import guess_columns, pair_of, record_of_json
from binderclip.data.sources.parquet import class_names, pyarrow_module, record_at
from binderclip.errors import InputError

__all__ = ["ArrowPairs", "arrow_files"]


class ArrowPairs(RowPairs):
    """What `Dataset.save_to_disk` wrote, or `.arrow` files of its cache; the rows stay on the disk.

    Args:
        folder: with `state.json` and `.arrow` files, or with one folder a split.
        split: which one, where there are several ("train" when nothing is said).
        columns: field -> column where the guess is wrong.

    Raises:
        InputError: no such dataset or split, or no file of it can be read.
        NeedsExtraError: pyarrow is not installed.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, split: str | None = None, columns: Mapping[str, str] | None = None
    ) -> None:
        place = Path(folder)
        super().__init__(place.name)
        place = _split_folder(place, split)
        pyarrow = pyarrow_module("reading a Hugging Face dataset")
        self.root = os.fspath(place)
        self._tables: list[Any] = []
        damaged = []
        files = arrow_files(place)
        for path in files:
            try:
                self._tables.append(_open(pyarrow, path))
            except (OSError, pyarrow.ArrowException):
                damaged.append(path)
        if not self._tables:
            raise InputError(f"no arrow file in {place} can be read: save the dataset again with save_to_disk")
        if damaged:
            self.notes.append(f"{len(damaged)} of {len(files)} arrow files cannot be read, the first is {damaged[0]}")
            self.skipped["an arrow file cannot be read"] = len(damaged)
        self._ends: list[int] = []
        for table in self._tables:
            self._ends.append(len(table) + (self._ends[-1] if self._ends else 0))
        schema = self._tables[0].schema
        self.columns = guess_columns(schema.names, columns, place.name)
        self.classes = class_names(schema, self.columns.get("label")) or _names_beside(place, self.columns.get("label"))

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self._ends[-1]

    def row(self, number: int) -> Pair | Bad:
        """Row 0 ... rows - 1."""
        which = bisect.bisect_right(self._ends, number)
        table = self._tables[which]
        within = number - (self._ends[which] - len(table))
        record = record_at(table, within)
        if record is None:
            return Bad(str(number), "its values are damaged")
        return pair_of(record, self.columns, id=str(number), root=self.root, source=self.name)


def arrow_files(place: Path) -> list[Path]:
    """The arrow files of a saved dataset, in the order of its state, or all there are.

    Raises:
        InputError: there are none, or the dataset was saved with an index over them.
    """
    state = place / "state.json"
    if state.is_file():
        about = record_of_json(state.read_bytes())
        if about.get("_indices_data_files"):
            raise InputError(f"{place} is an index over another dataset: call flatten_indices() and save it again")
        # Only names: a state file must not send us to another folder.
        named = [place / Path(str(entry.get("filename", ""))).name for entry in about.get("_data_files", [])]
        if named:
            return named
    found = sorted(path for path in place.glob("*.arrow") if not path.name.startswith("cache-"))
    if not found:
        raise InputError(f"{place} has no .arrow files: name a folder made by save_to_disk")
    return found


def _split_folder(place: Path, split: str | None) -> Path:
    about = place / "dataset_dict.json"
    if not about.is_file():
        if split is not None and not (place / split).is_dir():
            raise InputError(f"{place} has no split {split!r}: leave it out")
        return place / split if split is not None else place
    splits = [str(name) for name in record_of_json(about.read_bytes()).get("splits", [])]
    chosen = split or ("train" if "train" in splits else next(iter(splits), ""))
    if chosen not in splits:
        raise InputError(f"{place} has no split {chosen!r}: it has {', '.join(splits) or 'none'}")
    return place / Path(chosen).name


def _open(pyarrow: Any, path: Path) -> Any:
    """A table whose columns are views of the file."""
    import pyarrow.ipc as ipc

    mapped = pyarrow.memory_map(os.fspath(path), "r")
    try:
        return ipc.open_stream(mapped).read_all()
    except pyarrow.ArrowInvalid:
        mapped.seek(0)
        return ipc.open_file(mapped).read_all()


def _names_beside(place: Path, column: str | None) -> tuple[str, ...]:
    info = place / "dataset_info.json"
    if column is None or not info.is_file():
        return ()
    feature = (record_of_json(info.read_bytes()).get("features") or {}).get(column) or {}
    names = feature.get("names") if isinstance(feature, dict) else None
    return tuple(map(str, names)) if isinstance(names, list) else ()
