"""Peak memory of the process tree while indexing 10,000 small photos, then 300 of 24 megapixels.

Run as a child process whose resident memory (and its children's) is sampled every 20 ms from /proc.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from PIL import Image

from benchmarks.common import digest, imagenet_photos, record, shared_data


def tree_rss(pid: int) -> int:
    """Resident bytes of a process and its descendants."""
    total, todo = 0, [pid]
    while todo:
        one = todo.pop()
        try:
            pages = int(Path(f"/proc/{one}/statm").read_text().split()[1])
            todo += [int(c) for c in Path(f"/proc/{one}/task/{one}/children").read_text().split()]
        except (OSError, IndexError, ValueError):
            continue
        total += pages * 4096
    return total


def run_measured(command: list[str]) -> tuple[float, float]:
    """Seconds, and peak MB of the tree."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak, done = 0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, tree_rss(child.pid))
            time.sleep(0.02)

    thread = threading.Thread(target=sample)
    thread.start()
    code = child.wait()
    done.set()
    thread.join()
    if code:
        sys.exit(f"{command} ended with {code}")
    return time.perf_counter() - start, peak / 1e6


def main() -> None:
    """Write the photos, index them, record."""
    figures: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        small, large = root / "small", root / "large"
        small.mkdir()
        large.mkdir()
        files = imagenet_photos(645)
        for i in range(10_000):
            # A trailing comment makes each file's content its own; decoders stop at the end marker.
            (small / f"{i:05d}.jpg").write_bytes(files[i % 645] + f"{i}".encode())
        photo = Image.open(io.BytesIO(files[0])).convert("RGB").resize((6000, 4000), Image.Resampling.BICUBIC)
        stream = io.BytesIO()
        photo.save(stream, "JPEG", quality=92)
        for i in range(300):
            (large / f"{i:03d}.jpg").write_bytes(stream.getvalue() + f"{i}".encode())
        for name, folder in (("10000_small", small), ("300_of_24_megapixels", large)):
            command = [sys.executable, "-m", "binderclip", "index", str(folder), "--db", str(root / "db"), "--json"]
            spent, peak = run_measured(command)
            count = 10_000 if name == "10000_small" else 300
            figures[name] = {"peak_mb": peak, "seconds": spent, "images_per_second": count / spent}
    data = digest(shared_data() / "imagenet1k_photos.parquet")
    record("memory", figures, wanted="peak of the process tree under 1,200 MB", data=data)


if __name__ == "__main__":
    main()
