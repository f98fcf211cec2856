"""2,000 damaged pictures among 200 good ones: every file is indexed or reported, and good vectors are those of a clean run.

Damage: cut short, bytes flipped, headers swapped, empty, text, bombs, each drawn from a seed. Runs with `pocket`.
"""

from __future__ import annotations

import io
import struct
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common import digest, imagenet_photos, record, shared_data
from binderclip import Index

SEED, GOOD, BAD = 0, 200, 2000


def damage(data: bytes, kind: int, rng: np.random.Generator) -> bytes:
    """One of eight ways to spoil a file."""
    if kind == 0:
        return data[: rng.integers(1, len(data))]
    if kind == 1:
        spoiled = bytearray(data)
        for place in rng.integers(2, len(data), 40):
            spoiled[place] ^= int(rng.integers(1, 256))
        return bytes(spoiled)
    if kind == 2:
        return b""
    if kind == 3:
        return rng.bytes(int(rng.integers(1, 5000)))
    if kind == 4:
        return b"GIF89a" + data[6:]
    if kind == 5:
        head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
        chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
        return b"\x89PNG\r\n\x1a\n" + chunk + data[:100]
    if kind == 6:
        stream = io.BytesIO()
        Image.open(io.BytesIO(data)).convert("RGB").save(stream, "PNG")
        return stream.getvalue()[: rng.integers(60, 5000)]
    return b"<html><body>not here</body></html>" + rng.bytes(8)


def main() -> None:
    """Index the good ones alone, then everything together; compare and record."""
    rng = np.random.default_rng(SEED)
    files = imagenet_photos(GOOD)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        clean, mixed = root / "clean", root / "mixed"
        clean.mkdir()
        mixed.mkdir()
        for i, data in enumerate(files):
            (clean / f"g{i:04d}.jpg").write_bytes(data)
            (mixed / f"g{i:04d}.jpg").write_bytes(data)
        for i in range(BAD):
            (mixed / f"b{i:04d}.jpg").write_bytes(
                damage(files[i % GOOD], i % 8, rng) + (f"{i}".encode() if i % 8 != 2 else b"")
            )
        start = time.perf_counter()
        with Index.open(root / "one") as index:
            index.add([clean])
            rows, vectors = index.vectors()
        clean_seconds = time.perf_counter() - start
        start = time.perf_counter()
        with Index.open(root / "two") as index:
            report = index.add([mixed])
            rows2, vectors2 = index.vectors()
        mixed_seconds = time.perf_counter() - start
    wanted = {Path(row.path).name: vector for row, vector in zip(rows, vectors, strict=True)}
    got = {Path(row.path).name: vector for row, vector in zip(rows2, vectors2, strict=True)}
    same = sum(np.array_equal(vector, got[name]) for name, vector in wanted.items())
    figures = {
        "files": GOOD + BAD,
        "indexed": report.indexed,
        "reported": len(report.bad),
        "indexed_plus_reported": report.indexed + len(report.bad),
        "good_bit_equal": same,
        "clean_seconds": clean_seconds,
        "mixed_seconds": mixed_seconds,
        "seconds_per_damaged_file": (mixed_seconds - clean_seconds) / BAD,
    }
    record(
        "damaged", figures, seed=SEED, data=digest(shared_data() / "imagenet1k_photos.parquet"),
        wanted="indexed + reported = 2,200; 200 good vectors bit-equal to a clean run",
        notes="A file whose damage still decodes (a flipped byte in the picture data) counts as indexed.",
    )  # fmt: skip
    if report.indexed + len(report.bad) != GOOD + BAD or same != GOOD:
        sys.exit("wrong")


if __name__ == "__main__":
    main()
