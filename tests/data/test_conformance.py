"""What every source of pairs must do: the room's suite, and three that are broken on purpose, each for its own reason."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from binderclip.data.media import open_image
from binderclip.data.pairs import Bad, Pair, Pairs, RowPairs
from binderclip.data.stream import Stream

from .sources_kit import caption, number_of, picture, write_folder, write_shards, write_table

COUNT = 12
Make = Callable[[], Pairs]


def parquet(place: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = place / "rows.parquet"
    rows = [
        {"id": f"{i:04d}", "image": {"bytes": picture(i), "path": None}, "caption": caption(i)} for i in range(COUNT)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=4)
    return path


KINDS: dict[str, Callable[[Path], Any]] = {
    "folder": lambda place: write_folder(place / "pictures", COUNT),
    "classes": lambda place: write_folder(place / "pictures", COUNT, classes=3),
    "csv": lambda place: write_table(place / "rows.csv", COUNT),
    "tsv": lambda place: write_table(place / "rows.tsv", COUNT),
    "jsonl": lambda place: write_table(place / "rows.jsonl", COUNT),
    "parquet": parquet,
    "tar": lambda place: write_shards(place, 3, COUNT // 3),
}


def drawn(pairs: Pairs, seed: int = 5) -> list[str]:
    stream = Stream(pairs, 4, seed=seed, epochs=1, threads=0)
    return [name for batch in stream for name in batch.ids]


def obeys_the_seed(make: Make) -> None:
    """One seed, one order, however often the source is opened; another seed, another order."""
    first = drawn(make())
    assert drawn(make()) == first, "seed: one seed gave two orders"
    assert drawn(make(), seed=6) != first, "seed: another seed gave the same order"


def leaves_its_files_alone(make: Make) -> None:
    """Reading a source changes nothing of it: the second pass is the first."""
    pairs = make()
    first = [(row.id, row.captions, row.label) for row in pairs]
    assert [(row.id, row.captions, row.label) for row in pairs] == first, "changes: the second pass differs"


def keeps_rows_together(make: Make) -> None:
    """Every row once, and each with its own picture, caption and label."""
    numbers = []
    for row in make():
        assert row.image is not None
        number = number_of(open_image(row.image).image)
        numbers.append(number)
        if row.captions:
            assert row.captions == (caption(number),), f"order: picture {number} has the caption {row.captions}"
    assert sorted(numbers) == list(range(COUNT)), "order: rows are missing or come twice"


RULES = {"seed": obeys_the_seed, "changes": leaves_its_files_alone, "order": keeps_rows_together}


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_conforms(kind: str, rule: str, tmp_path: Path) -> None:
    spec = KINDS[kind](tmp_path)
    RULES[rule](lambda: Pairs.open(spec))


class Good(RowPairs):
    """Rows in memory."""

    def __init__(self) -> None:
        super().__init__("good")
        self.passes = 0

    @property
    def rows(self) -> int:
        return COUNT

    def row(self, number: int) -> Pair | Bad:
        return Pair(f"{number:04d}", picture(number), captions=(caption(number),))


class IgnoresTheSeed(Good):
    def row(self, number: int) -> Pair | Bad:
        return super().row(random.SystemRandom().randrange(COUNT))


class ChangesAsItIsRead(Good):
    def __iter__(self) -> Iterator[Pair]:
        self.passes += 1
        for number in range(COUNT):
            yield Pair(f"{number:04d}", picture(number), captions=(caption(number) + "!" * self.passes,))


class WrongOrder(Good):
    def row(self, number: int) -> Pair | Bad:
        return Pair(f"{number:04d}", picture(number), captions=(caption(COUNT - 1 - number),))


def test_the_good_one_conforms() -> None:
    for rule in RULES.values():
        rule(Good)


@pytest.mark.parametrize(
    ("broken", "rule"), [(IgnoresTheSeed, "seed"), (ChangesAsItIsRead, "changes"), (WrongOrder, "order")]
)
def test_a_broken_source_is_found_out(broken: type[Good], rule: str) -> None:
    with pytest.raises(AssertionError, match=f"^{rule}:"):
        RULES[rule](broken)
