"""What a curation keeps on the disk: arrays in .npz, verdicts in Parquet or JSON lines, chosen rows as tars or a list."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from binderclip.data.files import whole_file, write_whole
from binderclip.data.pairs import Media, Pair
from binderclip.errors import InputError, NeedsExtraError

__all__ = [
    "chosen",
    "has_parquet",
    "read_arrays",
    "read_table",
    "write_arrays",
    "write_list",
    "write_table",
    "write_tar",
]


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Named arrays as one .npz file, whole or not at all; arrays of objects are refused.

    Raises:
        InputError: an array holds objects.
    """
    odd = [name for name, array in arrays.items() if np.asarray(array).dtype.hasobject]
    if odd:
        raise InputError(f"{odd[0]} holds objects: partials and plans are arrays of numbers or text")
    with whole_file(path) as stream:
        np.savez(stream, **arrays)


def read_arrays(path: Path) -> dict[str, Any]:
    """What `write_arrays` wrote.

    Raises:
        InputError: the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise InputError(f"{path} is damaged ({error}): delete it, and the same command makes it again") from None


def has_parquet() -> bool:
    """Whether Parquet can be written here."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        return False
    return True


def write_table(path: Path, columns: Mapping[str, list[Any]]) -> None:
    """Columns of one length as .parquet or .jsonl, by the path's suffix."""
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow.parquet import write_table as write

        sink = io.BytesIO()
        write(pyarrow.table(_typed(columns)), sink)
        return write_whole(path, sink.getvalue())
    lines = (json.dumps(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True))
    return write_whole(path, "".join(line + "\n" for line in lines).encode())


def read_table(path: Path) -> dict[str, list[Any]]:
    """What `write_table` wrote; no columns for an empty .jsonl.

    Raises:
        NeedsExtraError: it is Parquet and pyarrow is not installed.
    """
    if path.suffix == ".parquet":
        if not has_parquet():
            raise NeedsExtraError("reading Parquet", "train")
        from pyarrow.parquet import read_table as read

        table: dict[str, list[Any]] = read(path).to_pydict()
        return table
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}


def write_tar(path: Path, rows: Iterable[Pair]) -> int:
    """Rows as a WebDataset shard, and how many: `00000000.jpg`, `.txt` (a caption a line) and `.json` (the other fields).

    The same rows give the same bytes. The row's id is in the JSON. A row whose file cannot be read is left out.
    """
    count = 0
    with whole_file(path) as stream, tarfile.open(fileobj=stream, mode="w") as tar:
        for row in rows:
            try:
                members = list(_members(row))
            except OSError:
                continue
            for suffix, data in members:
                info = tarfile.TarInfo(f"{count:08d}{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            count += 1
    return count


def write_list(stream: IO[bytes], rows: Iterable[Pair]) -> int:
    """Rows as JSON lines that name their files, to be opened with `Pairs.open`, and how many.

    Raises:
        InputError: a row holds its media in memory: only a tar can take it.
    """
    count = 0
    for row in rows:
        media = {name: getattr(row, name) for name in ("image", "video", "audio") if getattr(row, name) is not None}
        if not all(isinstance(one, str | os.PathLike) for one in media.values()):
            raise InputError(f"row {row.id} is not a file of its own: write the kept rows as tar")
        paths = {name: os.path.abspath(one) for name, one in media.items()}
        stream.write(json.dumps(paths | {"captions": row.captions} | _facts(row)).encode() + b"\n")
        count += 1
    return count


def chosen(rows: Iterable[Pair], verdicts: Mapping[str, list[Any]]) -> Iterator[Pair]:
    """The rows that are kept, with their weight and the caption that was picked."""
    at = {key: i for i, key in enumerate(verdicts.get("id", ()))}
    for row in rows:
        i = at[row.id]
        if verdicts["keep"][i]:
            pick = verdicts["caption"][i]
            captions = row.captions if pick < 0 else row.captions[pick : pick + 1]
            yield replace(row, captions=captions, weight=row.weight * verdicts["weight"][i])


def _members(row: Pair) -> Iterator[tuple[str, bytes]]:
    for name, fallback in (("image", ".jpg"), ("video", ".mp4"), ("audio", ".wav")):
        media = getattr(row, name)
        if media is not None:
            yield _file_of(media, fallback)
    if row.captions:
        yield ".txt", "\n".join(" ".join(text.split()) for text in row.captions).encode("utf-8", "replace")
    yield ".json", json.dumps(_facts(row)).encode()


def _file_of(media: Media, fallback: str) -> tuple[str, bytes]:
    """Suffix and content of a medium."""
    if isinstance(media, Image.Image):
        out = io.BytesIO()
        media.save(out, "PNG")
        return ".png", out.getvalue()
    if isinstance(media, bytes):
        return ".png" if media.startswith(b"\x89PNG") else fallback, media
    return os.path.splitext(media)[1].lower() or fallback, Path(media).read_bytes()


def _facts(row: Pair) -> dict[str, Any]:
    """The fields that are no media and no caption, where they say something."""
    facts = {"id": row.id, "label": row.label, "boxes": [list(box) for box in row.boxes], "time": row.time}
    facts |= {"source": row.source, "provenance": row.provenance}
    return {name: value for name, value in facts.items() if value not in (None, "", [])} | {"weight": row.weight}


def _typed(columns: Mapping[str, list[Any]]) -> Mapping[str, Any]:
    """Columns of the verdicts keep their type where a shard has no rows."""
    import pyarrow

    types = {
        "keep": pyarrow.bool_(),
        "weight": pyarrow.float64(),
        "score": pyarrow.float64(),
        "caption": pyarrow.int64(),
    }
    return {name: pyarrow.array(values, types.get(name, pyarrow.string())) for name, values in columns.items()}
