"""WebDataset shards: tar files whose members of one name are one row, read from the front with the standard library."""

from __future__ import annotations

import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from binderclip.data.pairs import Bad, Pair, ShardPairs
from binderclip.data.sources.fields import NAMES, captions_of, pair_of, record_of_json
from binderclip.data.sources.suffixes import MEDIUM_OF
from binderclip.errors import InputError

__all__ = ["TarPairs"]

_MOST_MEMBER = 1 << 28  # bytes of one member that are read into memory
_TEXTS = (".txt", ".json", ".cls")
_DAMAGE = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError)


class TarPairs(ShardPairs):
    """Rows of tar shards: `0007.jpg`, `0007.txt`, `0007.json`, `0007.cls` are one row of id `0007`.

    CLIP_benchmark's files are read where they lie beside the shards or one folder up: `classnames.txt` (names of the
    numbers in `.cls`) and `zeroshot_classification_templates.txt`. Pickled members are never opened.

    Args:
        paths: of the shards; those that are missing are counted and told.
        name: of the source.

    Raises:
        InputError: none of the shards is there.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]], name: str) -> None:
        super().__init__(name)
        wanted = [os.fspath(path) for path in paths]
        self.shards = tuple(path for path in wanted if os.path.isfile(path))
        lost = [path for path in wanted if not os.path.isfile(path)]
        if not self.shards:
            raise InputError(f"none of {len(wanted)} shards is there, the first is {wanted[0]}: check the path")
        if lost:
            self.notes.append(f"{len(lost)} of {len(wanted)} shards are missing, the first is {lost[0]}")
            self.skipped["a shard is missing"] = len(lost)
        folder = Path(self.shards[0]).parent
        self.classes = tuple(_lines_beside(folder, "classnames.txt"))
        sentences = _lines_beside(folder, "zeroshot_classification_templates.txt")
        self.templates = tuple(line.replace("{c}", "{}") for line in sentences)

    def rows_in(self, shard: int) -> int | None:
        """As img2dataset noted it beside the shard (`00000_stats.json`), or None."""
        stats = Path(self.shards[shard].removesuffix(".tar") + "_stats.json")
        try:
            return int(record_of_json(stats.read_bytes())["successes"])
        except (OSError, InputError, KeyError, TypeError, ValueError):
            return None

    def read(self, shard: int, start: int = 0, step: int = 1) -> Iterator[Pair | Bad]:
        """Rows start, start + step, ... of a shard; the others are passed over without reading them."""
        path, begun = self.shards[shard], False
        try:
            with tarfile.open(path, "r:*") as tar:
                begun = True
                for key, members in _groups(tar, start, step):
                    yield self._row(key, members)
        except _DAMAGE:
            yield Bad(path, "the rest of a damaged shard" if begun else "a shard that cannot be read")

    def _row(self, key: str, members: list[tuple[str, bytes | None]]) -> Pair | Bad:
        record: dict[str, Any] = {}
        facts: dict[str, Any] = {}
        for suffix, data in members:
            if data is None:
                return Bad(key, f"a member is over {_MOST_MEMBER >> 20} MB")
            if suffix in MEDIUM_OF:
                record.setdefault(MEDIUM_OF[suffix], data)
                continue
            try:
                facts |= _facts(suffix, data)
            except InputError as error:
                return Bad(key, str(error))
        columns: dict[str, str] = {field: field for field in record}
        for field in ("captions", "label", "boxes", "time", "weight", "provenance"):
            column = next((name for name in (field, *NAMES[field]) if name in facts), None)
            if column is not None:
                columns[field] = column
        return pair_of(facts | record, columns, id=key, source=self.name)


def _facts(suffix: str, data: bytes) -> dict[str, Any]:
    if suffix == ".json":
        return record_of_json(data)
    text = data.decode("utf-8", "surrogateescape").strip()
    if suffix == ".cls":
        return {"label": int(text) if text.lstrip("-").isdigit() else text}
    return {"captions": [caption for line in text.splitlines() for caption in captions_of(line)]}


def _groups(tar: tarfile.TarFile, start: int, step: int) -> Iterator[tuple[str, list[tuple[str, bytes | None]]]]:
    """Rows start, start + step, ...: neighbouring members whose names agree up to the first point of the file name.

    A member is read when it is met, so that a compressed shard is never wound back.
    """
    key, number, wanted = "", -1, False
    members: list[tuple[str, bytes | None]] = []
    while (member := tar.next()) is not None:
        vars(tar)["members"] = []  # the library would keep them all
        folder, slash, name = member.name.rpartition("/")
        if not member.isfile() or name.startswith(".") or "." not in name:
            continue
        stem, _, ending = name.partition(".")
        if folder + slash + stem != key:
            if members:
                yield key, members
            key, number, members = folder + slash + stem, number + 1, []
            wanted = number >= start and (number - start) % step == 0
        suffix = "." + ending.rpartition(".")[2].lower()
        if wanted and (suffix in MEDIUM_OF or suffix in _TEXTS):
            stream = tar.extractfile(member) if member.size <= _MOST_MEMBER else None
            members.append((suffix, stream.read() if stream else None))
        elif wanted and not members:
            members.append((".txt", b""))  # a row of nothing we know is still a row: it is counted as bad
    _check_end(tar)  # before the last row is given out: it may be the part of one
    if members:
        yield key, members


def _check_end(tar: tarfile.TarFile) -> None:
    """The library takes a file that was cut short, or damaged in the middle, for its end: the mark is two blocks of zeros.

    Raises:
        tarfile.ReadError: there is none.
    """
    rest = tar.fileobj.read(tarfile.BLOCKSIZE) if tar.fileobj else b""  # the library has read the first of the two
    if not rest or rest.strip(b"\0"):
        raise tarfile.ReadError("no end mark")


def _lines_beside(folder: Path, name: str) -> list[str]:
    for place in (folder, folder.parent):
        try:
            return [line.strip() for line in (place / name).read_text("utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError):
            continue
    return []
