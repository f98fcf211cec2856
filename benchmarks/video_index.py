"""Videos into an index: how many times faster than they play, and how much memory a long one takes.

    python -m benchmarks.video_index [--minutes 30]

The video is filmed from still pictures by the media kit (pans and zooms, 240p, 25 frames a second) and written with PyAV
(H.264 where the codec is there, else MPEG-4). A process of its own indexes it with `pocket`, at one frame a second.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.common import record
from binderclip.data.mediakit import pan, still, zoom

RATE, HEIGHT, WIDTH = 25, 240, 426
SHOT, SHOTS = 250, 12  # frames of a shot, shots of the film, which comes again and again

CHILD = """
import json, sys, time
from pathlib import Path
from binderclip.search.index import LocalIndex
with LocalIndex(sys.argv[2]) as index:
    index.encoder.encode_text(["warm"])
    start = time.perf_counter()
    report = index.add([sys.argv[1]])
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    hits = index.search("a red circle", 10)
    search = time.perf_counter() - start
    again = time.perf_counter()
    unchanged = index.add([sys.argv[1]]).unchanged
    again = time.perf_counter() - again
lines = Path("/proc/self/status").read_text().splitlines()
peak = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
print(json.dumps({"seconds": seconds, "frames": report.frames, "limited_by": report.limited_by, "search": search,
                  "hits": len(hits), "again": again, "unchanged": unchanged, "peak": peak, "cpu": time.process_time()}))
"""


def shots() -> Iterator[np.ndarray]:
    """Shots [250, 240, 426, 3]: two squares of film side by side, cut to the width."""
    for number in range(SHOTS):
        move = (pan, zoom)[number % 2]
        left, right = (
            move(still(2 * number + side, size=320, seed=1), frames=SHOT, size=HEIGHT, seed=number).frames
            for side in (0, 1)
        )
        yield np.concatenate([left, right], axis=2)[:, :, :WIDTH]


def write(path: Path, seconds: int) -> str:
    """Writes the long video, two minutes of film again and again; returns the codec."""
    import av

    codec, short = "libx264" if "libx264" in av.codecs_available else "mpeg4", path.with_name("short.mp4")
    film(short, codec)
    ticks = 0  # of the time base, by which the film at hand is late
    with av.open(str(path), "w") as out:
        stream = None
        for _ in range(max(seconds * RATE // (SHOT * SHOTS), 1)):
            with av.open(str(short)) as source:
                film_stream = source.streams.video[0]
                stream = stream or out.add_stream_from_template(film_stream)
                for packet in source.demux(film_stream):
                    if packet.size:
                        packet.pts, packet.dts, packet.stream = packet.pts + ticks, packet.dts + ticks, stream
                        out.mux(packet)
                ticks += film_stream.duration
    short.unlink()
    return codec


def film(path: Path, codec: str) -> None:
    """Writes each shot once."""
    import av

    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=RATE, options={"preset": "veryfast"} if codec == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for picture in itertools.chain.from_iterable(shots()):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        out.mux(stream.encode(None))


def main() -> None:
    """Writes a long video, indexes it in a fresh process, records speed and peak memory."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=int, default=30)
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.mp4"
        start = time.perf_counter()
        codec = write(path, 60 * minutes)
        written = time.perf_counter() - start
        size = path.stat().st_size
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(path), str(Path(folder) / "db")],
            check=True,
            capture_output=True,
            text=True,
        )
    figures = json.loads(done.stdout)
    record(
        "video_index",
        {
            "video": f"{minutes} min, {WIDTH} x {HEIGHT}, {RATE} fps, {codec}, {size / 1e6:.0f} MB",
            "seconds": round(figures["seconds"], 1),
            "times_real_time": round(60 * minutes / figures["seconds"], 1),
            "cpu_seconds": round(figures["cpu"], 1),
            "frames_kept": figures["frames"],
            "limited_by": figures["limited_by"],
            "peak_resident_mb": round(figures["peak"]),
            "search_seconds": round(figures["search"], 3),
            "unchanged_seconds": round(figures["again"], 3),
            "writing_seconds": round(written, 1),
        },
        wanted="indexing faster than real time at 25 fps, 240p, 1 frame a second; under 1000 MB resident for 30 minutes",
        seed=1,
        data="media kit: pans and zooms over generated stills",
        notes="peak_resident_mb is the highest resident memory of the process that indexes, model and interpreter included",
    )


if __name__ == "__main__":
    main()
