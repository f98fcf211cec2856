"""Failing and killing an indexing run at every write, rename, flush and truncation that reaches the system; and kill -9.

A small C library, loaded before everything else, counts the calls of SQLite and of ours that touch the index's folder, and
at the n-th either makes the call fail with "input/output error" or ends the process on the spot. After each, what is on the
disk must be whole, and a run to the end must give the rows and vectors of a run that nothing stopped, bit for bit, with at
most one batch encoded twice. The model is a stand-in that replays vectors (a fault lies in storage, not in the model).
"""

from __future__ import annotations

import argparse
import ctypes
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import imagenet_photos, record
from binderclip.errors import BinderclipError
from binderclip.search.index import LocalIndex
from binderclip.search.store import Store

PHOTOS, BATCH, DIM = 200, 32, 64

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static long at = -1, count = 0;
static int mode = 0;             /* 0 count, 1 fail, 2 kill */
static char prefix[4096] = "";

void fault_arm(long n, int how, const char *folder) {
  count = 0; at = n; mode = how; strncpy(prefix, folder, sizeof prefix - 1);
}
long fault_count(void) { return count; }

static int spring(void) {
  if (++count != at) return 0;
  if (mode == 2) _exit(137);
  errno = EIO;
  return mode == 1;
}
static int ours(int fd) {
  char link[64], path[4096];
  if (!prefix[0]) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, sizeof path - 1);
  return n > 0 && (path[n] = 0, strncmp(path, prefix, strlen(prefix)) == 0);
}
static int named(const char *path) { return prefix[0] && strncmp(path, prefix, strlen(prefix)) == 0; }
#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *data, size_t n) { REAL(write); return ours(fd) && spring() ? -1 : real(fd, data, n); }
ssize_t pwrite(int fd, const void *d, size_t n, off_t o) {
  REAL(pwrite); return ours(fd) && spring() ? -1 : real(fd, d, n, o);
}
ssize_t pwrite64(int fd, const void *d, size_t n, off64_t o) {
  REAL(pwrite64); return ours(fd) && spring() ? -1 : real(fd, d, n, o);
}
int fsync(int fd) { REAL(fsync); return ours(fd) && spring() ? -1 : real(fd); }
int fdatasync(int fd) { REAL(fdatasync); return ours(fd) && spring() ? -1 : real(fd); }
int ftruncate(int fd, off_t n) { REAL(ftruncate); return ours(fd) && spring() ? -1 : real(fd, n); }
int ftruncate64(int fd, off64_t n) { REAL(ftruncate64); return ours(fd) && spring() ? -1 : real(fd, n); }
int rename(const char *a, const char *b) { REAL(rename); return named(b) && spring() ? -1 : real(a, b); }
int unlink(const char *path) { REAL(unlink); return named(path) && spring() ? -1 : real(path); }
"""


class Replay:
    """An encoder whose vector is a fixed projection of a small picture, and that writes down what it encodes."""

    name, fingerprint, dim, min_side, calibration = "replay", "replay-1", DIM, 8, None

    def __init__(self, log: Path, pause: float = 0.0) -> None:
        self.log, self.pause = log, pause
        self.projection = np.random.default_rng(0).standard_normal((8 * 8 * 3, DIM)).astype(np.float32)

    def pixels(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image.resize((8, 8), Image.Resampling.BOX), dtype=np.uint8)

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        time.sleep(self.pause)
        with open(self.log, "ab", buffering=0) as file:
            file.write(b"x" * len(pixels))
        # One row at a time: a row's bits do not depend on its batch.
        rows = [(one.reshape(-1).astype(np.float32) - 128) @ self.projection for one in pixels]
        return np.stack([row / np.linalg.norm(row) for row in rows])

    def encode_text(self, texts: Any) -> np.ndarray:
        raise NotImplementedError

    encode_image = encode_text


def index_once(folder: Path, photos: Path, log: Path, pause: float = 0.0) -> None:
    with LocalIndex(folder, Replay(log, pause)) as index:
        index.add([photos], batch=BATCH)


def dump(folder: Path) -> list[Any]:
    with Store(folder) as store:
        wrong = store.integrity()
        assert not wrong, wrong
        return [*sorted(store.counts().items()), *[pair for m in store.models() for pair in store.rows_with_vectors(m)]]


def make_photos(folder: Path, side: int) -> None:
    folder.mkdir()
    for i, data in enumerate(imagenet_photos(PHOTOS)):
        image = Image.open(io.BytesIO(data)).convert("RGB")
        image.thumbnail((side, side))
        image.save(folder / f"{i:03d}.jpg", quality=90)


def recover(folder: Path, photos: Path, log: Path, whole: list[Any], tally: Counter[str]) -> None:
    """What every fault ends with: look, run to the end, compare."""
    if (folder / "index.sqlite3").is_file():
        try:
            dump(folder)
        except BinderclipError as error:
            tally["empty index in between" if "empty" in str(error) else f"unreadable: {error}"] += 1
    before = log.stat().st_size if log.exists() else 0
    index_once(folder, photos, log)
    again = log.stat().st_size - PHOTOS
    tally["most encoded twice"] = max(tally["most encoded twice"], again)
    tally["more than a batch twice"] += again > BATCH
    tally["different at the end"] += dump(folder) != whole
    tally["resumed with work done"] += 0 < before < PHOTOS
    with LocalIndex(folder, Replay(log)) as index:
        tally["verify complains"] += bool(index.verify())


def every_call(work: Path, photos: Path, whole: list[Any], step: int) -> dict[str, Any]:
    shim = ctypes.CDLL(None)
    shim.fault_arm.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p]
    shim.fault_count.restype = ctypes.c_long
    folder = work / "count"
    shim.fault_arm(-1, 0, os.fsencode(folder))
    index_once(folder, photos, work / "count.log")
    calls = int(shim.fault_count())
    shim.fault_arm(-1, 0, b"")
    assert dump(folder) == whole
    out: dict[str, Any] = {"calls": calls}
    for mode, name in ((1, "fail"), (2, "kill")):
        tally: Counter[str] = Counter()
        for n in range(1, calls + 1, step):
            folder, log = work / f"{name}{n}", work / f"{name}{n}.log"
            child = os.fork()
            if child == 0:
                code = 0
                try:
                    shim.fault_arm(n, mode, os.fsencode(folder))
                    index_once(folder, photos, log)
                except BinderclipError:
                    code = 3
                except OSError:
                    code = 4
                except BaseException:
                    code = 5
                os._exit(code)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            ended = {0: "went on", 3: "told in one line", 137: "killed"}.get(code, f"ended with {code}")
            tally[ended] += 1
            recover(folder, photos, log, whole, tally)
            tally["tried"] += 1
            shutil.rmtree(folder)
            log.unlink()
        out[name] = dict(sorted(tally.items()))
        print(name, out[name], flush=True)
    return out


def kill_nine(work: Path, photos: Path, whole: list[Any], times: int, seed: int) -> dict[str, Any]:
    """kill -9 of a process of its own, at random moments of its run."""
    tally: Counter[str] = Counter()
    chance = random.Random(seed)
    for i in range(times):
        folder, log = work / f"nine{i}", work / f"nine{i}.log"
        child = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.faults", "--child", str(folder), str(photos), str(log)]
        )
        while not (folder / "index.sqlite3").exists() and child.poll() is None:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.7))
        child.send_signal(signal.SIGKILL)
        tally["killed" if child.wait() == -9 else "had ended"] += 1
        recover(folder, photos, log, whole, tally)
        tally["tried"] += 1
        shutil.rmtree(folder)
    return dict(sorted(tally.items()))


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--step", type=int, default=1, help="every how many calls (1: every one)")
    parser.add_argument("--side", type=int, default=96, help="pixels of a photo's long side")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--shim", default="")
    parser.add_argument("--child", nargs=3, type=Path)
    options = parser.parse_args()
    if options.child:
        index_once(*options.child, pause=0.12)
        return
    if not options.shim:
        work = Path(tempfile.mkdtemp(prefix="binderclip-faults-"))
        (work / "shim.c").write_text(SHIM)
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", work / "shim.so", work / "shim.c", "-ldl"], check=True)
        os.environ["LD_PRELOAD"] = str(work / "shim.so")
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.faults", *sys.argv[1:], "--shim", str(work)])
    work = Path(options.shim)
    sys.argv = sys.argv[: sys.argv.index("--shim")]
    try:
        make_photos(work / "photos", options.side)
        index_once(work / "whole", work / "photos", work / "whole.log")
        whole = dump(work / "whole")
        start = time.perf_counter()
        figures = every_call(work, work / "photos", whole, options.step)
        figures["kill -9"] = kill_nine(work, work / "photos", whole, options.kills, seed=0)
        figures["seconds"] = round(time.perf_counter() - start)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    wanted = "final rows and vectors bit-equal to an uninterrupted run; at most one batch encoded twice"
    notes = f"{PHOTOS} photos at {options.side} px, batches of {BATCH}; every {options.step}. call; replayed vectors"
    record("faults", figures, wanted=wanted, seed=0, notes=notes)


if __name__ == "__main__":
    main()
