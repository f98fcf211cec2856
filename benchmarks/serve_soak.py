"""Half an hour of mixed requests: memory, file descriptors and threads of the server, and whether its answers stay right."""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import percentile, record
from benchmarks.serve_kit import Client, captions, embedding, holds, photos, request_bytes, server
from binderclip import Encoder, Index
from binderclip.data.hashing import uniform

CHECKED = 1000  # one request in so many is compared with the offline vector


def slope(minutes: np.ndarray, values: np.ndarray) -> dict[str, float]:
    """Least-squares slope a minute with its 95 % interval; samples that follow each other are not taken for independent."""
    design = np.stack([np.ones_like(minutes), minutes], 1)
    (_, b), *_ = np.linalg.lstsq(design, values, rcond=None)
    residual = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    centred = minutes - minutes.mean()
    # Newey-West over twelve samples (two minutes), the time in which a cache fills or an arena is given back.
    scores = centred * residual
    total = float(scores @ scores)
    for lag in range(1, 13):
        total += 2 * (1 - lag / 13) * float(scores[lag:] @ scores[:-lag])
    error = math.sqrt(max(total, 0.0)) / float(centred @ centred)
    return {
        "mb_a_minute": round(float(b), 4),
        "low": round(float(b) - 1.96 * error, 4),
        "high": round(float(b) + 1.96 * error, 4),
    }


async def soak(port: int, pid: int, minutes: float, rate: float, encoder: Encoder) -> dict[str, Any]:
    texts, pictures = captions(), photos()[:300]
    ids = [
        hit["id"]
        for hit in json.loads((await Client(port).ask(request_bytes("GET", "/v1/search?limit=200")))[1])["data"]
    ]
    clients = [Client(port) for _ in range(8)]
    free: asyncio.Queue[Client] = asyncio.Queue()
    for client in clients:
        free.put_nowait(client)
    statuses: dict[int, int] = {}
    times: list[float] = []
    worst, checked = 0.0, 0

    async def one(i: int) -> None:
        nonlocal worst, checked
        draw = uniform(0, [f"kind {i}", f"which {i}"])
        which = int(draw[1] * 1e6)
        source: str | bytes | None = None
        if draw[0] < 0.4 or i % CHECKED == 0:
            source = texts[which % len(texts)] + f" {i}" if (i // CHECKED) % 2 == 0 else pictures[which % len(pictures)]
            request = embedding(source)
        elif draw[0] < 0.6:
            source = pictures[which % len(pictures)]
            request = embedding(source)
        elif draw[0] < 0.85:
            body = {"query": texts[which % len(texts)], "limit": 24, "where": "width>100" if which % 2 else None}
            request = request_bytes("POST", "/v1/search", body)
        elif draw[0] < 0.97:
            request = request_bytes("GET", f"/v1/files/{ids[which % len(ids)]}/thumbnail?size={(320, 640)[which % 2]}")
        else:
            source, request = None, embedding(b"no picture at all")
        client = await free.get()
        start = time.perf_counter()
        try:
            status, body_bytes = await client.ask(request)
        finally:
            free.put_nowait(client)
        times.append(1000 * (time.perf_counter() - start))
        statuses[status] = statuses.get(status, 0) + 1
        if i % CHECKED == 0 and source is not None:
            row = np.frombuffer(base64.b64decode(json.loads(body_bytes)["data"][0]["embedding"]), "<f4")
            offline = (
                encoder.encode_image([source])[0] if isinstance(source, bytes) else encoder.encode_text([source])[0]
            )
            worst, checked = max(worst, float(np.abs(row - offline).max())), checked + 1

    samples: list[dict[str, float]] = []
    start, i, jobs = time.monotonic(), 0, set[asyncio.Task[None]]()
    while time.monotonic() - start < 60 * minutes:
        job = asyncio.create_task(one(i))
        jobs.add(job)
        job.add_done_callback(jobs.discard)
        i += 1
        if time.monotonic() - start > 10 * len(samples):
            samples.append(holds(pid) | {"minute": (time.monotonic() - start) / 60})
        await asyncio.sleep(max(0.0, start + i / rate - time.monotonic()))
    await asyncio.gather(*jobs)
    warm = [one for one in samples if one["minute"] > minutes / 3]
    minute = np.array([one["minute"] for one in warm])
    return {
        "minutes": minutes,
        "requests": i,
        "statuses": {str(key): count for key, count in sorted(statuses.items())},
        "p50_ms": round(percentile(times, 50), 1),
        "p99_ms": round(percentile(times, 99), 1),
        "rss_mb": {"warm": round(warm[0]["rss_mb"], 1), "end": round(warm[-1]["rss_mb"], 1)},
        "rss_slope": slope(minute, np.array([one["rss_mb"] for one in warm])),
        "files": sorted({int(one["files"]) for one in warm}),
        "threads": sorted({int(one["threads"]) for one in warm}),
        "checked": checked,
        "worst_difference": worst,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second")
    given = parser.parse_args()
    encoder = Encoder("pocket", threads=1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "photos"
        folder.mkdir()
        for i, photo in enumerate(photos()[:300]):
            (folder / f"{i}.jpg").write_bytes(photo)
        with Index.open(Path(place) / "db", encoder) as index:
            index.add([folder])
        with server(Path(place) / "db") as (port, process):
            figures = asyncio.run(soak(port, process.pid, given.minutes, given.rate, encoder))
    record(
        "serve_soak",
        figures,
        wanted="RSS slope under 1 MB a minute after warm-up; files and threads constant; 1 request in 1,000 equals offline",
        seed=0,
        data="300 photos of imagenet1k, captions of flickr8k",
        notes="the first third is warm-up; 40 % texts, 20 % photos, 25 % searches, 12 % thumbnails, 3 % broken pictures",
    )


if __name__ == "__main__":
    main()
