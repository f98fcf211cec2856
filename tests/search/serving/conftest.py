"""A small index and servers on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnxruntime  # noqa: F401 - loaded after usearch (which the index loads) it ends the process
import pytest

from binderclip.search.index import LocalIndex

from ..helpers import COLOURS, FakeEncoder, paint
from .kit import Live, live


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(folder of thirty pictures, folder of their index)."""
    place = tmp_path_factory.mktemp("serving")
    for i, (name, colour) in enumerate(COLOURS.items()):
        for j in range(6):
            paint(place / "photos" / f"day{j % 3}" / f"{name}{j}.png", colour, seed=10 * i + j)
    with LocalIndex(place / "db", FakeEncoder()) as index:
        index.add([place / "photos"])
    return place / "photos", place / "db"


@pytest.fixture(scope="session")
def server(library: tuple[Path, Path]) -> Iterator[Live]:
    """A server with the options as they come."""
    with live(library[1], FakeEncoder()) as running:
        yield running
