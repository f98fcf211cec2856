"""Failing and killing at every write, rename, flush and commit of a small run; then running again.

Oracle: a run that nothing stopped. Whatever happens, the index in between is whole, the run after it ends with the same
rows and the same bits in every vector, and no more than one batch was encoded twice.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from binderclip.errors import BinderclipError
from binderclip.search import schema
from binderclip.search.index import LocalIndex
from binderclip.search.store import Store

from .helpers import FakeEncoder, dump, paint

PICTURES, BATCH = 6, 2
_WRITES = ("INSERT", "UPDATE", "DELETE", "COMMIT", "BEGIN", "CREATE")


class Trap:
    """Counts writes and springs at the n-th."""

    def __init__(self, at: int, spring: Callable[[], None]) -> None:
        self.at, self.count, self.spring = at, 0, spring

    def step(self) -> None:
        self.count += 1
        if self.count == self.at:
            self.spring()


class TrappedConnection(sqlite3.Connection):
    trap: Trap | None = None

    def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
        # Flushes matter to a power cut, which cannot be tried here; without them the test takes a fifth of the time.
        sql = sql.replace("synchronous=FULL", "synchronous=OFF")
        if self.trap is not None and sql.startswith(_WRITES):
            self.trap.step()
        return super().execute(sql, *rest)

    def executemany(self, sql: str, *rest: Any) -> sqlite3.Cursor:
        if self.trap is not None:
            self.trap.step()
        return super().executemany(sql, *rest)


class LoggingEncoder(FakeEncoder):
    """Writes down what it encodes, where a killed process cannot take it back."""

    def __init__(self, log: Path) -> None:
        super().__init__()
        self.log = log

    def encode_pixels(self, pixels: Any) -> Any:
        with open(self.log, "ab", buffering=0) as file:
            file.write(b"x" * len(pixels))
        return super().encode_pixels(pixels)


def set_trap(patch: pytest.MonkeyPatch, trap: Trap) -> None:
    replace, fsync = os.replace, os.fsync
    patch.setattr(TrappedConnection, "trap", trap)
    patch.setattr("os.replace", lambda *a, **k: (trap.step(), replace(*a, **k))[1])
    patch.setattr("os.fsync", lambda *a: (trap.step(), fsync(*a))[1])


def run(folder: Path, photos: Path, log: Path) -> None:
    with LocalIndex(folder, LoggingEncoder(log)) as index:
        index.add([photos], batch=BATCH, threads=2)


@pytest.fixture(autouse=True)
def _trapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sqlite3.connect", partial(sqlite3.connect, factory=TrappedConnection))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for i in range(PICTURES):
        paint(folder / f"{i:02d}.png", (40 * i, 255 - 30 * i, 90), seed=i, size=(16, 16))
    shutil.copy(folder / "03.png", folder / "zz copy.png")
    (folder / "05 bad.jpg").write_bytes(b"bad")
    return folder


def count_steps(tmp_path: Path, pictures: Path) -> tuple[int, list[tuple[Any, ...]]]:
    with pytest.MonkeyPatch.context() as patch:
        trap = Trap(-1, lambda: None)
        set_trap(patch, trap)
        run(tmp_path / "whole", pictures, tmp_path / "log")
    assert (tmp_path / "log").stat().st_size == PICTURES
    return trap.count, dump(tmp_path / "whole")


def check(folder: Path, pictures: Path, log: Path, whole: list[tuple[Any, ...]]) -> None:
    run(folder, pictures, log)
    assert dump(folder) == whole
    assert log.stat().st_size <= PICTURES + BATCH
    with LocalIndex(folder, FakeEncoder()) as index:
        assert index.verify() == []


def fail(n: int) -> None:
    raise sqlite3.OperationalError("disk I/O error") if n % 2 else OSError(28, "No space left on device")


def test_failing_at_every_step(tmp_path: Path, pictures: Path) -> None:
    steps, whole = count_steps(tmp_path, pictures)
    assert steps > 40
    failed = 0
    for n in range(1, steps + 1):
        folder, log = tmp_path / f"db{n}", tmp_path / f"log{n}"

        with pytest.MonkeyPatch.context() as patch:
            set_trap(patch, Trap(n, partial(fail, n)))
            try:
                run(folder, pictures, log)
            except (BinderclipError, OSError, sqlite3.OperationalError):
                failed += 1
        check(folder, pictures, log, whole)
        shutil.rmtree(folder)
    assert failed > 0.8 * steps


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.skipif(sys.platform == "darwin", reason="forking is not safe there")
def test_killing_at_every_step(tmp_path: Path, pictures: Path) -> None:
    steps, whole = count_steps(tmp_path, pictures)
    killed = 0
    for n in range(1, steps + 1):
        folder, log = tmp_path / f"db{n}", tmp_path / f"log{n}"
        child = os.fork()
        if child == 0:
            with pytest.MonkeyPatch.context() as patch:
                set_trap(patch, Trap(n, lambda: os._exit(9)))
                try:
                    run(folder, pictures, log)
                finally:
                    os._exit(0)
        killed += os.waitpid(child, 0)[1] != 0
        if (folder / "index.sqlite3").is_file():  # what a reader finds in between is whole
            with closing(schema.connect(folder / "index.sqlite3")) as link:
                made = schema.check(link)
            if made:
                with Store(folder) as store:
                    assert store.integrity() == []
                assert {line for line in dump(folder) if line[0] != "state"} <= set(whole)
        check(folder, pictures, log, whole)
        shutil.rmtree(folder)
    assert killed == steps
