"""`index --watch` with watchfiles: a change wakes it at once, and no change wakes it after the interval."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from binderclip.cli.index import _pause


def test_a_change_wakes_it_long_before_the_interval(tmp_path: Path) -> None:
    pytest.importorskip("watchfiles")
    timer = threading.Timer(0.5, lambda: (tmp_path / "new.png").write_bytes(b"1"))
    timer.start()
    start = time.monotonic()
    _pause([tmp_path], 60.0)
    timer.join()
    assert time.monotonic() - start < 30


def test_no_change_wakes_it_after_the_interval(tmp_path: Path) -> None:
    start = time.monotonic()
    _pause([tmp_path], 0.3)
    assert 0.2 < time.monotonic() - start < 30
