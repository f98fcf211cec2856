"""clip-retrieval's layout: `img_emb/img_emb_0.npy` with `metadata/metadata_0.parquet` beside it, part by part.

Written so that a stop loses at most the part at hand, and a second run goes on where the first one was. Reading is
`binderclip.data.embeddings.Embeddings.from_folder`.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from binderclip.data.embeddings import natural_order, read_metadata
from binderclip.data.files import write_whole
from binderclip.errors import InputError
from binderclip.search.indexer import Clock, Progress, read_batches
from binderclip.search.reading import Outcome
from binderclip.search.scan import Found
from binderclip.search.store import show_path
from binderclip.search.types import EncoderLike, FloatArray, Row

__all__ = ["Embedded", "embed_files", "export_index", "write_part"]


@dataclass
class Embedded:
    """What a run did: `bad` is (path, reason)."""

    written: int = 0
    kept: int = 0
    parts: int = 0
    bad: list[tuple[str, str]] = field(default_factory=list)


def write_part(
    folder: Path,
    number: int,
    vectors: FloatArray,
    rows: Sequence[dict[str, Any]],
    *,
    kind: str = "img",
    parquet: bool = True,
) -> None:
    """Writes one part: metadata first, vectors last, so that a part with vectors is whole.

    Args:
        folder: of the table.
        number: of the part.
        vectors: [N, D]; stored as fp16.
        rows: N rows of metadata.
        kind: "img" or "text".
        parquet: Parquet where pyarrow is installed, else JSON lines.
    """
    (folder / "metadata").mkdir(parents=True, exist_ok=True)
    (folder / f"{kind}_emb").mkdir(exist_ok=True)
    name, data = _metadata(rows, parquet)
    write_whole(folder / "metadata" / f"metadata_{number}.{name}", data)
    out = io.BytesIO()
    np.save(out, np.asarray(vectors, dtype=np.float16), allow_pickle=False)
    write_whole(folder / f"{kind}_emb" / f"{kind}_emb_{number}.npy", out.getvalue())


def _metadata(rows: Sequence[dict[str, Any]], parquet: bool) -> tuple[str, bytes]:
    if parquet:
        try:
            import pyarrow
            from pyarrow.parquet import write_table
        except ImportError:
            pass
        else:
            sink = io.BytesIO()
            write_table(pyarrow.Table.from_pylist(list(rows)), sink)
            return "parquet", sink.getvalue()
    return "jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "replace")


def _prepare(folder: Path, encoder_name: str, fingerprint: str, dim: int) -> int:
    """Makes the folder, or checks that it is the same model's; returns the number of the next part."""
    facts = folder / "info.json"
    if facts.is_file():
        held = json.loads(facts.read_text("utf-8"))
        if held.get("fingerprint") != fingerprint:
            raise InputError(f"{folder} holds vectors of {held.get('model')}, not of {encoder_name}: choose another -o")
    else:
        if (folder / "img_emb").exists():
            raise InputError(f"{folder} holds vectors of an unknown model: choose another -o")
        folder.mkdir(parents=True, exist_ok=True)
        about = {"model": encoder_name, "fingerprint": fingerprint, "dim": dim}
        write_whole(facts, json.dumps(about, indent=2).encode())
    numbers = [int(path.stem.rsplit("_", 1)[-1]) for path in (folder / "img_emb").glob("img_emb_*.npy")]
    return max(numbers, default=-1) + 1


def _done(folder: Path) -> set[tuple[str, int, int]]:
    """(path, size, mtime) of what whole parts hold."""
    held = set()
    for part in natural_order((folder / "img_emb").glob("img_emb_*.npy")):
        for row in read_metadata(folder / "metadata", part.stem.rsplit("_", 1)[-1]) or []:
            held.add((row["image_path"], row.get("size", -1), row.get("mtime_ns", -1)))
    return held


def embed_files(
    files: Sequence[Found],
    encoder: EncoderLike,
    out: str | os.PathLike[str],
    *,
    part: int = 4096,
    batch: int = 32,
    threads: int | None = None,
    parquet: bool = True,
    on_progress: Callable[[Progress], None] | None = None,
    on_bad: Callable[[str, str], None] | None = None,
) -> Embedded:
    """Encodes files into parts of a folder; files that are in a part already are left as they are.

    Args:
        files: what to encode, in order.
        encoder: makes the vectors.
        out: the folder.
        part: rows of a part.
        batch: pictures encoded together.
        threads: that read and decode.
        parquet: Parquet where pyarrow is installed, else JSON lines.
        on_progress: called after each batch.
        on_bad: called with (path, reason).

    Raises:
        InputError: the folder holds another model's vectors, or cannot be written.
    """
    folder, report = Path(out), Embedded()
    try:
        number = _prepare(folder, encoder.name, encoder.fingerprint, encoder.dim)
        held = _done(folder)
        todo = [one for one in files if (show_path(one.path), one.size, one.mtime_ns) not in held]
        report.kept = len(files) - len(todo)
        rows: list[dict[str, Any]] = []
        blocks: list[FloatArray] = []
        clock = Clock(len(todo))
        waited = partial(clock.measure, "reading and decoding")
        for outcomes in read_batches(todo, encoder, batch=batch, threads=threads, on_wait=waited):
            clock.done += len(outcomes)
            good = [one for one in outcomes if one.pixels is not None]
            since = time.perf_counter()
            if good:
                blocks.append(encoder.encode_pixels(np.stack([one.pixels for one in good if one.pixels is not None])))
            clock.measure("the model", since)
            rows += [_row_of(one) for one in good]
            for one in outcomes:
                if one.pixels is None:
                    report.bad.append((show_path(one.found.path), one.reason or f"needs the extra {one.needs!r}"))
                    if on_bad is not None:
                        on_bad(*report.bad[-1])
            if len(rows) >= part:
                write_part(folder, number, np.concatenate(blocks), rows, parquet=parquet)
                report.written, report.parts, number = report.written + len(rows), report.parts + 1, number + 1
                rows, blocks = [], []
            if on_progress is not None:
                on_progress(clock.progress())
        if rows:
            write_part(folder, number, np.concatenate(blocks), rows, parquet=parquet)
            report.written, report.parts = report.written + len(rows), report.parts + 1
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror or error}): choose another -o") from None
    return report


def _row_of(one: Outcome) -> dict[str, Any]:
    return {
        "image_path": show_path(one.found.path),
        "size": one.found.size,
        "mtime_ns": one.found.mtime_ns,
        "width": one.width,
        "height": one.height,
        "taken": one.taken,
        "content": one.content.hex(),
    }


def export_index(
    rows: Sequence[Row], vectors: FloatArray, encoder: EncoderLike, out: str | os.PathLike[str], part: int = 100_000
) -> int:
    """Writes what an index holds in the same layout; returns how many rows. The folder must be new or the same model's."""
    folder = Path(out)
    number = _prepare(folder, encoder.name, encoder.fingerprint, encoder.dim)
    for start in range(0, len(rows), part):
        some = rows[start : start + part]
        table = [
            {"image_path": row.path, "size": row.size, "mtime_ns": row.mtime_ns, "width": row.width,
             "height": row.height, "taken": row.taken, "content": row.content}
            for row in some
        ]  # fmt: skip
        write_part(folder, number + start // part, vectors[start : start + part], table)
    return len(rows)
