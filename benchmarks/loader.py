"""The training loader alone: images a second from a folder of files and from tar shards, decoded to 224 px in 2 threads.

Beside it, what the same decoding costs with nothing around it, so that the loader's own share can be read.
"""

from __future__ import annotations

import io
import itertools
import os
import statistics
import tarfile
import tempfile
import time
from pathlib import Path

from benchmarks.common import digest, imagenet_photos, record, shared_data
from binderclip.data.loading import load_pixels
from binderclip.data.pairs import Pair, Pairs
from binderclip.data.stream import Stream
from binderclip.model.preprocess import Preprocess

PHOTOS, SHARDS, BATCH, THREADS, REPEATS = 1200, 6, 64, 2, 5


def write_folder(place: Path, files: list[bytes]) -> Path:
    """A picture and a caption file a row."""
    place.mkdir()
    for i, data in enumerate(files):
        (place / f"{i:05d}.jpg").write_bytes(data)
        (place / f"{i:05d}.txt").write_text(f"photo {i}")
    return place


def write_shards(place: Path, files: list[bytes]) -> str:
    """The same rows in tar files."""
    place.mkdir()
    for shard in range(SHARDS):
        with tarfile.open(place / f"{shard:05d}.tar", "w") as tar:
            for i in range(shard, len(files), SHARDS):
                for name, data in ((f"{i:05d}.jpg", files[i]), (f"{i:05d}.txt", b"photo %d" % i)):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return str(place / f"{{00000..{SHARDS - 1:05d}}}.tar")


def rate(pairs: Pairs, size: int, steps: int, seed: int) -> tuple[float, float]:
    """Images a second, and a CPU second of all threads, of `steps` batches behind the first."""
    batches = iter(Stream(pairs, BATCH, seed=seed, load=load_pixels(Preprocess(size=size)), threads=THREADS))
    next(batches)
    start, cpu = time.perf_counter(), time.process_time()
    for batch in itertools.islice(batches, steps):
        assert len(batch) == BATCH
    spent, cpu = time.perf_counter() - start, time.process_time() - cpu
    batches.close()
    return steps * BATCH / spent, steps * BATCH / cpu


def bare(files: list[bytes], size: int) -> tuple[float, float]:
    """The same two of the same decoding in a plain loop of one thread."""
    load = load_pixels(Preprocess(size=size))
    start, cpu = time.perf_counter(), time.process_time()
    for data in files[:512]:
        load(Pair("", image=data), 0)
    return 512 / (time.perf_counter() - start), 512 / (time.process_time() - cpu)


def main() -> None:
    """Measure and record."""
    files = imagenet_photos(PHOTOS)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        loose = Pairs.open(write_folder(place / "loose", files))
        shards = Pairs.open(write_shards(place / "shards", files))
        start = time.perf_counter()
        Pairs.open(place / "loose")
        opened = time.perf_counter() - start
        tiny = Pairs.open(shared_data() / "tiny_imagenet.parquet")
        ways = {
            "folder": lambda run: rate(loose, 224, 14, run),
            "shards": lambda run: rate(shards, 224, 14, run),
            "plain_loop_one_thread": lambda run: bare(files, 224),
            "tiny_imagenet_parquet_64px": lambda run: rate(tiny, 64, 60, run),
        }
        # In turn, so that a noisy machine disturbs all alike.
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for run in range(REPEATS):
            for name, measure in ways.items():
                runs[name].append(measure(run))
    figures = {
        "images_per_second": {name: round(statistics.median(w for w, _ in found), 1) for name, found in runs.items()},
        "images_per_cpu_second": {
            name: round(statistics.median(c for _, c in found), 1) for name, found in runs.items()
        },
        "all_runs": {name: [round(wall, 1) for wall, _ in found] for name, found in runs.items()},
        "seconds_to_open_the_folder": opened,
        "load_average": os.getloadavg()[0],
        "photos": PHOTOS,
        "shards": SHARDS,
        "threads": THREADS,
        "batch": BATCH,
    }
    record(
        "loader",
        figures,
        wanted="loader throughput alone, from a folder and from tar shards, 2 threads",
        seed=0,
        data=digest(shared_data() / "imagenet1k_photos.parquet", shared_data() / "tiny_imagenet.parquet"),
        notes="JPEG photos of short side 288 to 224 px, from the page cache; medians of 5 runs taken in turn, behind the "
        "first batch. Other work on the two cores (see the load average) lowers images a second, not those a CPU second",
    )


if __name__ == "__main__":
    main()
