"""Folders of pictures to index."""

from __future__ import annotations

from pathlib import Path

import pytest

from .helpers import COLOURS, FakeEncoder, paint


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Thirty pictures in three folders: six of each colour."""
    folder = tmp_path / "photos"
    for i, (name, colour) in enumerate(COLOURS.items()):
        for j in range(6):
            paint(folder / f"day{j % 3}" / f"{name}{j}.png", colour, seed=10 * i + j)
    return folder
