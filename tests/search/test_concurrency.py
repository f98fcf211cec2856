"""Searching while another process indexes; two at once."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from binderclip.errors import IndexLockedError, IndexStateError
from binderclip.search.index import LocalIndex

from .helpers import FakeEncoder


class SlowEncoder(FakeEncoder):
    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        time.sleep(0.03)
        return super().encode_pixels(pixels)


def test_searching_while_indexing(tmp_path: Path, photos: Path) -> None:
    errors: list[BaseException] = []

    def write() -> None:
        try:
            with LocalIndex(tmp_path / "db", SlowEncoder()) as index:
                index.add([photos], batch=2)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    counts: list[int] = []
    early: list[str] = []
    with LocalIndex(tmp_path / "db", FakeEncoder()) as index:
        while thread.is_alive():
            try:
                counts.append(len(index.search("red", 40)))
            except IndexStateError as error:
                early.append(str(error))
            time.sleep(0.005)
        thread.join()
        assert len(index.search("red", 40)) == 30
    assert errors == []
    assert all("no index" in text or "empty" in text for text in early)  # before the first batch
    assert counts == sorted(counts)
    assert len(set(counts)) > 3


def test_a_second_writer_waits_or_is_told(tmp_path: Path, photos: Path) -> None:
    first = threading.Event()

    class Signalling(SlowEncoder):
        def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
            first.set()
            return super().encode_pixels(pixels)

    def write() -> None:
        with LocalIndex(tmp_path / "db", Signalling()) as index:
            index.add([photos], batch=2)

    thread = threading.Thread(target=write)
    thread.start()
    assert first.wait(10)
    with LocalIndex(tmp_path / "db", FakeEncoder()) as index:
        with pytest.raises(IndexLockedError, match="is being written by process"):
            index.add([photos])
        report = index.add([photos], wait=30)
    thread.join()
    assert report.unchanged == 30


def test_threads_share_an_open_index(tmp_path: Path, photos: Path) -> None:
    with LocalIndex(tmp_path / "db", FakeEncoder()) as index:
        index.add([photos])
        words = ["red", "green", "blue", "yellow"]
        expected = {word: index.search(word, 7) for word in words}
        with ThreadPoolExecutor(4) as pool:
            for word, hits in pool.map(lambda word: (word, index.search(word, 7)), words * 25):
                assert hits == expected[word]
