"""The derived cache of an index: every vector as int8 with a scale, in one memory-mapped file.

May be deleted at any time. A row x is kept as q = round(x / s), s = max|x| / 127, one scale s a row. The scan ranks
rows by the cosine of the quantised row and query, in which s cancels; the best are then rescored from the truth.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
import threading
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from binderclip.data.files import whole_file
from binderclip.search.store import Model, Store
from binderclip.search.types import FloatArray

__all__ = ["Cache", "load_cache", "quantize", "scan_int8"]

Int8 = NDArray[np.int8]
Int64 = NDArray[np.int64]

_MAGIC = b"BCLPi8\x00\x01"
# magic, id of the index, hash of the model's fingerprint, removals, generation, rows N, dim D, CRC-32 of the rest
_HEADER = struct.Struct("<8s16s16sqqqqQ")
_SIZE = 128
_one_writes = threading.Lock()
_FRESH_SHARE = 0.02  # rows that are not yet in the file are quantised at each opening until they are this many


@dataclass(frozen=True)
class Cache:
    """The vectors of one model at one moment, quantised.

    Args:
        ids: vector ids [N], rising.
        scales: s of each row [N].
        rows: q of each row [N, D].
        removals: how often vectors had been removed from the index.
        generation: how often the index had been written.
    """

    ids: Int64
    scales: FloatArray
    rows: Int8
    removals: int
    generation: int

    def __len__(self) -> int:
        return len(self.ids)

    def nearest(self, query: FloatArray, k: int, allowed: Int64 | None = None) -> Int64:
        """Ids of the k rows nearest to a unit query [D], best first; of `allowed` (sorted ids) only, when given."""
        ids, rows = self.ids, self.rows
        if allowed is not None:
            positions = np.searchsorted(ids, allowed)
            inside = positions < len(ids)
            positions = positions[inside][ids[positions[inside]] == allowed[inside]]
            ids, rows = ids[positions], rows[positions]
        return ids[scan_int8(rows, query, k)]


def quantize(rows: FloatArray) -> tuple[FloatArray, Int8]:
    """Scales [N] and int8 rows [N, D] of rows [N, D]."""
    scales = np.maximum(np.abs(rows).max(axis=1), 1e-12) / 127.0
    return scales.astype(np.float32), np.rint(rows / scales[:, None]).astype(np.int8)


def scan_int8(rows: Int8, query: FloatArray, k: int) -> Int64:
    """Positions of the k int8 rows [N, D] with the largest cosine to a query [D], best first, ties in order."""
    from usearch.index import search

    k = min(k, len(rows))
    if k == 0:
        return np.zeros(0, dtype=np.int64)
    _, quantized = quantize(query[None])
    if not rows.flags.c_contiguous or not rows.flags.aligned:
        rows = np.ascontiguousarray(rows)
    found = search(rows, quantized[0], k, "cos", exact=True, threads=0)
    positions, distances = found.keys.astype(np.int64), found.distances
    return positions[np.lexsort((positions, distances))]


def load_cache(store: Store, model: Model, held: Cache | None = None) -> Cache:
    """The vectors of a model, from memory, the file, or the truth, whichever is still right.

    Args:
        store: the truth.
        model: whose vectors.
        held: what the caller had before; returned as it is when nothing was written since.
    """
    index_id, removals, generation = store.stamp()
    if held is not None and (held.removals, held.generation) == (removals, generation):
        return held
    with store.reading():
        index_id, removals, generation = store.stamp()
        base = held if held is not None and held.removals == removals else None
        path = _path(store, model)
        if base is None:
            base = _read(path, index_id, model, removals)
        last = int(base.ids[-1]) if base is not None and len(base) else 0
        blocks = [(ids, *quantize(rows)) for ids, rows in store.vectors_after(model, last)]
    fresh = sum(len(ids) for ids, _, _ in blocks)
    if base is not None and not fresh:
        return Cache(base.ids, base.scales, base.rows, removals, generation)
    cache = _join(base, blocks, model.dim, removals, generation)
    if base is None or fresh > 256 + _FRESH_SHARE * len(base):
        _write(path, cache, index_id, model)
    return cache


def _join(
    base: Cache | None, blocks: list[tuple[Int64, FloatArray, Int8]], dim: int, removals: int, generation: int
) -> Cache:
    first = [] if base is None else [(base.ids, base.scales, base.rows)]
    parts = [*first, *blocks] or [(np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros((0, dim), np.int8))]
    ids, scales, rows = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Cache(ids, scales, rows, removals, generation)


def _path(store: Store, model: Model) -> Path:
    return store.folder / "cache" / f"{_digest(model).hex()}.i8"


def _digest(model: Model) -> bytes:
    return hashlib.blake2b(model.fingerprint.encode(), digest_size=16).digest()


def _write(path: Path, cache: Cache, index_id: str, model: Model) -> None:
    if not len(cache):
        return
    parts = [cache.ids.data.cast("B"), cache.scales.data.cast("B"), cache.rows.data.cast("B")]
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    shape = (cache.removals, cache.generation, len(cache), model.dim, crc)
    header = _HEADER.pack(_MAGIC, bytes.fromhex(index_id), _digest(model), *shape)
    # Whatever stops this (a full disk, a read-only folder, another program's lock) costs time later, nothing else.
    with contextlib.suppress(OSError), _one_writes:
        path.parent.mkdir(exist_ok=True)
        _sweep(path.parent)
        with whole_file(path) as stream:
            stream.write(header.ljust(_SIZE, b"\0"))
            for part in parts:
                stream.write(part)


def _sweep(folder: Path) -> None:
    """Removes what a killed writer left behind, once it is old enough to be nobody's."""
    for left in folder.glob(".*.part"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > 3600:
                left.unlink()


def _read(path: Path, index_id: str, model: Model, removals: int) -> Cache | None:
    """The file's cache, or None when it is missing, of another index or moment, or not what was written."""
    try:
        raw = np.memmap(path, dtype=np.uint8, mode="r")
        magic, owner, digest, taken_out, generation, n, dim, crc = _HEADER.unpack(bytes(raw[: _HEADER.size]))
        right = (_MAGIC, bytes.fromhex(index_id), _digest(model), removals, model.dim)
        if (magic, owner, digest, taken_out, dim) != right or len(raw) != _SIZE + n * (8 + 4 + dim):
            return None
        if zlib.crc32(raw[_SIZE:].data) != crc:
            return None
    except (OSError, ValueError, struct.error):
        return None
    at_scales, at_rows = _SIZE + 8 * n, _SIZE + 12 * n
    ids = raw[_SIZE:at_scales].view("<i8")
    scales = raw[at_scales:at_rows].view("<f4")
    return Cache(ids, scales, raw[at_rows:].view(np.int8).reshape(n, dim), removals, generation)
