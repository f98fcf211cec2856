"""What every benchmark shares: timing, memory, and a record that names its command, code, seed and data."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from binderclip.cards import code_hash, find

ROOT = Path(__file__).resolve().parent.parent
RECORDS = Path(__file__).resolve().parent / "records"


def shared_data() -> Path:
    """The folder of data at hand: BINDERCLIP_SHARED, or ../shared beside the repository."""
    for place in (os.environ.get("BINDERCLIP_SHARED"), str(ROOT.parent / "shared")):
        if place and (Path(place) / "data" / "README.md").is_file():
            return Path(place) / "data"
    sys.exit("this benchmark needs the shared data: set BINDERCLIP_SHARED to its folder")


def seconds(work: Callable[[], Any], *, repeat: int = 5, warm: int = 1) -> list[float]:
    """Wall-clock seconds of each of ``repeat`` runs after ``warm`` runs that do not count."""
    for _ in range(warm):
        work()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times


def versus(ours: Callable[[], Any], peer: Callable[[], Any], *, repeat: int = 5) -> dict[str, float]:
    """Time two ways in turn, so that a noisy machine disturbs both alike; the ratio is of medians.

    Returns:
        ``ours`` and ``peer`` in seconds, and ``ratio`` = peer / ours (over 1: ours is faster).
    """
    ours(), peer()
    a, b = [], []
    for _ in range(repeat):
        a += seconds(ours, repeat=1, warm=0)
        b += seconds(peer, repeat=1, warm=0)
    return {
        "ours": statistics.median(a),
        "peer": statistics.median(b),
        "ratio": statistics.median(b) / statistics.median(a),
    }


def percentile(values: Iterable[float], q: float) -> float:
    """The q-th percentile (0..100) by the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(q / 100 * len(ordered) + 0.5) - 1))]


def digest(*paths: Path) -> str:
    """12 hexadecimal digits of the content of files, in order."""
    total = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:12]


def is_test(key: str) -> bool:
    """Whether a row of the tables at hand is kept aside: one in five, by the digest of its id."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % 5 == 0


def machine() -> dict[str, Any]:
    """What the figures were taken on, without naming it."""
    cpu = ""
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return {"cores": os.cpu_count(), "cpu": cpu, "system": platform.system(), "python": platform.python_version()}


def record(
    name: str,
    figures: dict[str, Any],
    *,
    wanted: str,
    seed: int | None = None,
    data: str = "",
    notes: str = "",
    methods: Iterable[str] = (),
) -> Path:
    """Write ``records/NAME.json`` and print it.

    Args:
        name: of the benchmark; also of its module.
        figures: what was measured.
        wanted: what had to be shown, in words.
        seed: of whatever was drawn.
        data: ``digest`` of what was read, or how it was made.
        notes: what a reader must know to read the figures right.
        methods: slugs of what was measured; the hash of their code is kept, which their cards' proofs are checked by.
    """
    module = Path(sys.modules["__main__"].__file__ or "")
    row = {
        "name": name,
        "command": f"python -m benchmarks.{module.stem} {' '.join(sys.argv[1:])}".strip(),
        "wanted": wanted,
        "figures": figures,
        "seed": seed,
        "data": data,
        "code": digest(module),
        "methods": {slug: code_hash(find(slug)) for slug in methods},
        "machine": machine(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "notes": notes,
    }
    RECORDS.mkdir(exist_ok=True)
    path = RECORDS / f"{name}.json"
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    aside.replace(path)
    print(json.dumps(row, indent=1))
    return path


@lru_cache(maxsize=1)
def open_clip() -> Any:
    """The peer, where it is installed (an environment of its own, see benchmarks/README.md)."""
    import runpy

    stub = shared_data().parent / "tools" / "torchvision_stub.py"
    try:
        runpy.run_path(str(stub))
        import open_clip as module
    except ImportError:
        sys.exit(
            "this benchmark compares with open_clip: run it in the environment that benchmarks/README.md describes"
        )
    return module


def flickr_captions(count: int) -> list[str]:
    """The first ``count`` Flickr8k captions in file order."""
    import pyarrow.parquet as pq

    rows = pq.read_table(shared_data() / "flickr8k_captions.parquet", columns=["captions"])["captions"].to_pylist()
    return [caption for row in rows for caption in row][:count]


def imagenet_photos(count: int) -> list[bytes]:
    """JPEG files of ImageNet photos, in file order, repeated when there are fewer."""
    import pyarrow.parquet as pq

    rows = pq.read_table(shared_data() / "imagenet1k_photos.parquet", columns=["image"])["image"].to_pylist()
    files = [row["bytes"] if isinstance(row, dict) else row for row in rows]
    return [files[i % len(files)] for i in range(count)]
