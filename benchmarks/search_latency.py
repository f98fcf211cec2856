"""Searching 200,000 vectors of 512: latency from the typed query to the hits, and recall against exact float32."""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import digest, flickr_captions, percentile, record, shared_data
from binderclip.search.index import LocalIndex
from binderclip.search.store import Entry
from binderclip.search.writer import Writer

SETS = ("imagenet1k_photos", "tiny_imagenet", "cifar100", "cifar10", "stamps")
QUERIES = 100


class StandIn:
    """A random projection of small pictures, to try this file without a model; its figures are not recorded."""

    name, fingerprint, dim, min_side, calibration = "stand-in", "stand-in", 512, 16, None

    def __init__(self) -> None:
        self.projection = np.random.default_rng(0).standard_normal((768, 512)).astype(np.float32)

    def pixels(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image.convert("RGB").resize((16, 16)), dtype=np.uint8)

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        rows = np.tanh((pixels.reshape(len(pixels), -1).astype(np.float32) / 128 - 1) @ self.projection / 12)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def encode_text(self, texts: list[str]) -> np.ndarray:
        rows = [np.random.default_rng(sum(text.encode())).standard_normal(512) for text in texts]
        return np.stack([row / np.linalg.norm(row) for row in rows]).astype(np.float32)

    def encode_image(self, images: list[Any]) -> np.ndarray:
        opened = [image if isinstance(image, Image.Image) else Image.open(image) for image in images]
        return self.encode_pixels(np.stack([self.pixels(image) for image in opened]))


def crops(count: int, seed: int = 0, skip: int = 0) -> Any:
    """Random crops of all pictures at hand, each of 30 % to 100 % of the side, the sets in turn, from number `skip` on."""
    import pyarrow.parquet as pq

    rng = np.random.default_rng(seed)
    pictures: list[bytes] = []
    for name in SETS:
        column = pq.read_table(shared_data() / f"{name}.parquet", columns=["image"])["image"].to_pylist()
        pictures += [one["bytes"] if isinstance(one, dict) else one for one in column]
    order = rng.permutation(len(pictures))
    for i in range(count):
        image = Image.open(io.BytesIO(pictures[order[i % len(order)]]))
        side = rng.uniform(0.3, 1.0)
        width, height = max(int(image.width * side), 8), max(int(image.height * side), 8)
        left, top = rng.integers(0, image.width - width + 1), rng.integers(0, image.height - height + 1)
        if i >= skip:
            yield image.convert("RGB").crop((left, top, left + width, top + height))


def make_vectors(encoder: Any, count: int, have: np.ndarray) -> np.ndarray:
    """Vectors [N, D] of the crops; the first of them may be at hand."""
    blocks, some = [have], []
    for i, image in enumerate(crops(count, skip=len(have)), len(have) + 1):
        some.append(image)
        if len(some) == 512 or i == count:
            blocks.append(encoder.encode_image(some))
            some = []
            if i % 10_240 == 0:
                print(f"{i:,} of {count:,} encoded", file=sys.stderr, flush=True)
    return np.concatenate(blocks)


def fill(folder: Path, encoder: Any, vectors: np.ndarray) -> float:
    """Puts vectors into an index under made-up paths; returns seconds."""
    start = time.perf_counter()
    with Writer(folder) as writer:
        model = writer.add_model(encoder.fingerprint, encoder.name, encoder.dim)
        for first in range(0, len(vectors), 4096):
            some = vectors[first : first + 4096]
            names = [f"/crops/{(first + i) // 1000:03d}/{first + i:06d}.jpg".encode() for i in range(len(some))]
            entries = [Entry(n, 1, 1, n, 224, 224, None, row) for n, row in zip(names, some, strict=True)]
            writer.commit(model, entries)
    return time.perf_counter() - start


def ask(index: LocalIndex, queries: list[Any], **options: Any) -> tuple[list[float], list[list[int]]]:
    """Milliseconds and the row numbers of the ten hits of each query."""
    times, found = [], []
    for query in queries:
        start = time.perf_counter()
        hits = index.search(query, 10, **options)
        times.append((time.perf_counter() - start) * 1e3)
        found.append([int(hit.path[-10:-4]) for hit in hits])
    return times, found


def recall(found: list[list[int]], queries: np.ndarray, vectors: np.ndarray) -> float:
    """Share of the exact ten nearest that were found; float32, from vectors that were never rounded."""
    kept = 0
    for row, hits in zip(queries, found, strict=True):
        kept += len(set(np.argsort(-(vectors @ row), kind="stable")[:10].tolist()) & set(hits))
    return kept / (10 * len(found))


def summary(times: list[float]) -> dict[str, float]:
    return {"p50_ms": round(percentile(times, 50), 1), "p95_ms": round(percentile(times, 95), 1)}


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--vectors", type=Path, help=".npy file to keep the vectors in between runs")
    parser.add_argument("--stand-in", action="store_true", help="no model: try the file, record nothing")
    options = parser.parse_args()
    if options.stand_in:
        encoder: Any = StandIn()
    else:
        from binderclip.engine import Encoder

        encoder = Encoder(options.model)
    if options.vectors and options.vectors.is_file():
        vectors = np.load(options.vectors)[: options.count]
    else:
        vectors = np.empty((0, encoder.dim), np.float32)
    if len(vectors) < options.count:
        vectors = make_vectors(encoder, options.count, vectors)
        if options.vectors:
            np.save(options.vectors, vectors)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        figures: dict[str, Any] = {"rows": len(vectors), "dim": int(vectors.shape[1])}
        figures["fill_s"] = round(fill(work / "db", encoder, vectors), 1)
        texts = flickr_captions(5 * QUERIES)[::5]
        pictures = []
        for i, image in enumerate(crops(QUERIES, seed=1)):
            image.save(work / f"query{i}.jpg", quality=95)
            pictures.append(work / f"query{i}.jpg")
        with LocalIndex(work / "db", encoder) as index:
            start = time.perf_counter()
            index.search(texts[0])
            figures["first_search_builds_the_cache_s"] = round(time.perf_counter() - start, 2)
            index.search(pictures[0])
            times, found = ask(index, texts)
            figures["text"] = summary(times) | {"recall@10": recall(found, encoder.encode_text(texts), vectors)}
            times, found = ask(index, pictures)
            figures["image"] = summary(times) | {"recall@10": recall(found, encoder.encode_image(pictures), vectors)}
            times, _ = ask(index, list(encoder.encode_text(texts)))
            figures["vector only"] = summary(times)
            times, _ = ask(index, texts, fold=0.98)
            figures["text, folding"] = summary(times)
            times, _ = ask(index, texts[:20], where="path~/crops/01 and width>100")
            figures["text, where 1 of 20"] = summary(times)
        if not options.stand_in:
            cold = []
            for text in texts[:5]:
                start = time.perf_counter()
                command = [sys.executable, "-m", "binderclip", "search", text, "--db", str(work / "db"), "-f"]
                subprocess.run(command, check=True, capture_output=True, env={**os.environ})
                cold.append((time.perf_counter() - start) * 1e3)
            figures["cold process"] = summary(cold)
    if options.stand_in:
        print(figures)
        return
    wanted = "p50 under 30 ms, p95 under 60 ms, recall@10 0.99 against exact fp32; a cold process: reported"
    source = digest(*(shared_data() / f"{name}.parquet" for name in SETS))
    record(
        "search_latency",
        figures,
        wanted=wanted,
        seed=0,
        data=source,
        notes=f"model {encoder.name}; text and image include encoding",
    )


if __name__ == "__main__":
    main()
