"""Splitting a source by the hash of its ids."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from binderclip.data.mixed import MixedPairs
from binderclip.data.pairs import Pairs
from binderclip.data.subset import split_pairs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(60):
        Image.new("RGB", (4, 4), (i, 0, 0)).save(tmp_path / f"{i}.png")
    return tmp_path


def ids(pairs: Pairs) -> list[str]:
    return [pair.id for pair in pairs]


def test_the_parts_are_the_whole_and_share_nothing(folder: Path) -> None:
    pairs = Pairs.open(folder)
    rest, held = split_pairs(pairs, 0.25)
    assert sorted(ids(rest) + ids(held)) == sorted(ids(pairs))
    assert not set(ids(rest)) & set(ids(held))
    assert 6 <= len(ids(held)) <= 24  # 15 +- 2.7 standard deviations
    assert ids(split_pairs(pairs, 0.25, seed=1)[1]) != ids(held)


def test_rows_that_are_added_move_no_other(folder: Path) -> None:
    before = ids(split_pairs(Pairs.open(folder), 0.25)[1])
    for i in range(60, 90):
        Image.new("RGB", (4, 4), (i, 0, 0)).save(folder / f"{i}.png")
    after = ids(split_pairs(Pairs.open(folder), 0.25)[1])
    assert [name for name in after if name in before] == before


def test_shards_and_mixtures_are_split_alike(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    import tarfile

    target = tmp_path_factory.mktemp("shards") / "a.tar"
    with tarfile.open(target, "w") as archive:
        for path in sorted(folder.glob("*.png")):
            archive.add(path, path.name)
    shards = Pairs.open(target)
    rest, held = split_pairs(shards, 0.25)
    assert sorted(ids(rest) + ids(held)) == sorted(ids(shards))
    assert 0 < len(ids(held)) < 30
    both = MixedPairs([Pairs.open(folder), shards])
    rest, held = split_pairs(both, 0.25)
    assert len(ids(rest)) + len(ids(held)) == 120
