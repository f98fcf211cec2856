"""Small sources of every kind with the same rows, written by the tests."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

from PIL import Image


def picture(number: int, side: int = 8) -> bytes:
    """A PNG whose colour tells its number."""
    stream = io.BytesIO()
    Image.new("RGB", (side, side), (number % 256, number // 256, 77)).save(stream, "PNG")
    return stream.getvalue()


def number_of(image: Image.Image) -> int:
    red, green, _ = image.getpixel((0, 0))  # type: ignore[misc]
    return int(red + 256 * green)


def caption(number: int) -> str:
    return f'picture, "number" {number}'


def write_folder(place: Path, count: int, classes: int = 0) -> Path:
    for i in range(count):
        folder = place / f"class{i % classes}" if classes else place
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:04d}.png").write_bytes(picture(i))
        if not classes:
            (folder / f"{i:04d}.txt").write_text(caption(i) + "\n")
    return place


def write_table(path: Path, count: int) -> Path:
    write_folder(path.parent / "images", count)
    rows = [{"filepath": f"images/{i:04d}.png", "title": caption(i), "label": i % 3} for i in range(count)]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    with open(path, "w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_tar(path: Path, numbers: range, *, mode: str = "w", extra: dict[str, bytes] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        members = {}
        for i in numbers:
            members |= {
                f"{i:06d}.png": picture(i),
                f"{i:06d}.txt": caption(i).encode(),
                f"{i:06d}.cls": b"%d" % (i % 2),
            }
        for name, data in (members | (extra or {})).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_shards(place: Path, shards: int, rows: int) -> str:
    for s in range(shards):
        write_tar(place / f"{s:05d}.tar", range(s * rows, (s + 1) * rows))
    return f"{place}/{{00000..{shards - 1:05d}}}.tar"
