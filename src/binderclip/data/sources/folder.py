"""A folder of pictures, videos and sounds, captions beside them; a folder of folders, named after the classes."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from pathlib import Path

from binderclip.data.pairs import Bad, Pair, RowPairs
from binderclip.data.sources.fields import NAMES, captions_of, pair_of, record_of_json
from binderclip.data.sources.suffixes import MEDIUM_OF, SPLITS
from binderclip.errors import InputError

__all__ = ["FolderPairs"]

_MOST_TEXT = 1 << 20  # bytes of a sidecar that are read: a caption is no novel


class FolderPairs(RowPairs):
    """Files of one name are one row: `fox.png`, `fox.ogg` and `fox.txt` (a caption a line) or `fox.json`.

    Only names are kept in memory, some tens of bytes a row. Rows are in the order of their paths' bytes.

    Args:
        root: the folder.
        labels: label = name of the first folder below the root (below `train`, `val`, ...). None does so where all rows
            are in at least two such folders and none has a caption beside it.
        split: the folder below the root that is read.

    Raises:
        InputError: no such folder, or nothing in it that could be a row.
    """

    def __init__(self, root: str | os.PathLike[str], *, labels: bool | None = None, split: str | None = None) -> None:
        self.root = os.path.abspath(Path(root) / split if split else root)
        super().__init__(Path(self.root).name or self.root)
        if not os.path.isdir(self.root):
            raise InputError(f"{self.root} is no folder: check the path{' and the split' if split else ''}")
        self._names = bytearray()
        self._ends = array("q")
        self._unreadable = 0
        tops, captioned, loose = set(), False, False
        for row in _walk(self.root, self):
            top = class_of(row[0])
            loose = loose or top is None
            tops.add(top)
            captioned = captioned or any(name.endswith((".txt", ".json")) for name in row[1:])
            self._names += b"\0".join(map(os.fsencode, row))
            self._ends.append(len(self._names))
        if not self._ends:
            raise InputError(f"no pictures, videos or sounds in {self.root}: name the folder that holds them")
        named = sorted(top for top in tops if top is not None)
        self.labels = labels if labels is not None else not loose and not captioned and len(named) > 1
        self.classes = tuple(named) if self.labels else ()
        if self._unreadable:
            self.notes.append(f"{self._unreadable} folders below {self.root} cannot be listed: check who may read them")

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self._ends)

    def note_unreadable(self) -> None:
        """Counts a folder that cannot be listed."""
        self._unreadable += 1

    def row(self, number: int) -> Pair | Bad:
        """Row 0 ... rows - 1; text is read now, media later."""
        begin = self._ends[number - 1] if number else 0
        files = os.fsdecode(bytes(self._names[begin : self._ends[number]])).split("\0")
        main, folder = files[0], os.path.dirname(files[0])
        record: dict[str, object] = {}
        columns: dict[str, str] = {}
        try:
            for name in files[1:]:
                path = os.path.join(self.root, folder, name)
                suffix = os.path.splitext(name)[1].lower()
                if suffix == ".txt":
                    lines = _read(path).decode("utf-8", "surrogateescape").splitlines()
                    record["captions"] = [text for line in lines for text in captions_of(line)]
                elif suffix == ".json":
                    record = record_of_json(_read(path)) | record
                    columns |= _columns(record)
                else:
                    record[MEDIUM_OF[suffix]] = path
        except InputError as error:
            return Bad(main, str(error))
        record[MEDIUM_OF[os.path.splitext(main)[1].lower()]] = os.path.join(self.root, main)
        columns |= {field: field for field in ("image", "video", "audio", "captions") if field in record}
        if self.labels and "label" not in columns:
            record["label"], columns["label"] = class_of(main), "label"
        return pair_of(record, columns | {"id": ""}, id=main, root=os.path.join(self.root, folder), source=self.name)


def class_of(relative: str) -> str | None:
    """The first folder of a relative path that is no split, or None."""
    folders = relative.split(os.sep)[:-1]
    if folders and folders[0].lower() in SPLITS:
        folders = folders[1:]
    return folders[0] if folders else None


def _columns(record: dict[str, object]) -> dict[str, str]:
    """Columns of a JSON sidecar; its own idea of a path is not followed, the file beside it is the row."""
    folded = {name.lower(): name for name in record}
    found = {}
    for field, names in NAMES.items():
        if field not in ("id", "image", "video", "audio"):
            name = next((folded[n] for n in names if n in folded), None)
            if name is not None:
                found[field] = name
    return found


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            data = stream.read(_MOST_TEXT + 1)
    except OSError as error:
        raise InputError(f"its caption file cannot be read ({error.strerror})") from None
    if len(data) > _MOST_TEXT:
        raise InputError("its caption file is over 1 MB")
    return data


def _walk(root: str, owner: FolderPairs) -> Iterator[list[str]]:
    """Rows as [path below the root, names of the files beside it...], folder by folder, loops of links entered once."""
    entered: set[tuple[int, int]] = set()
    stack = [""]
    while stack:
        below = stack.pop()
        here = os.path.join(root, below) if below else root
        try:
            facts = os.stat(here)
            with os.scandir(here) as entries:
                listed = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: os.fsencode(e.name))
        except OSError:
            owner.note_unreadable()
            continue
        if (facts.st_dev, facts.st_ino) in entered:
            continue
        entered.add((facts.st_dev, facts.st_ino))
        folders = [os.path.join(below, e.name) for e in listed if e.is_dir()]
        stack += reversed(folders)
        yield from _rows_of([e.name for e in listed if not e.is_dir()], below)


def _rows_of(names: list[str], below: str) -> Iterator[list[str]]:
    """Files of one folder by their stem: each picture with its texts and sound; without a picture, the video or sound."""
    groups: dict[str, dict[str, list[str]]] = {}
    for name in names:
        stem, suffix = os.path.splitext(name)
        kind = MEDIUM_OF.get(suffix.lower(), "text" if suffix.lower() in (".txt", ".json") else "")
        if kind:
            groups.setdefault(stem, {}).setdefault(kind, []).append(name)
    for group in groups.values():
        mediums = [kind for kind in ("image", "video", "audio") if kind in group]
        if not mediums:
            continue
        beside = [group[kind][0] for kind in mediums[1:]] + group.get("text", [])
        for name in group[mediums[0]]:
            yield [os.path.join(below, name), *beside]
