"""What every index must do: the room's suite, and three that are broken on purpose, each found out for its own reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from binderclip.search.index import LocalIndex
from binderclip.search.types import FloatArray, Row

from .helpers import FakeEncoder

QUERIES = ("red", "green blue", "yellow", "nothing like it")
Open = Callable[[], Any]


def lance_index(place: Path, filled: LocalIndex) -> Any:
    pytest.importorskip("lancedb")
    from binderclip.search.lance import LanceIndex

    table = LanceIndex(str(place / "table"), FakeEncoder())
    table.fill_from(filled)
    return table


@pytest.fixture(params=["local", "lance"])
def opener(request: pytest.FixtureRequest, tmp_path: Path, photos: Path) -> Iterator[Open]:
    local = LocalIndex(tmp_path / "db", FakeEncoder())
    local.add([photos])
    if request.param == "lance":
        table = lance_index(tmp_path, local)
        yield lambda: table
    else:
        yield lambda: LocalIndex(tmp_path / "db", FakeEncoder())
    local.close()


def answers(index: Any) -> list[list[tuple[str, float]]]:
    return [[(hit.path, hit.score) for hit in index.search(query, 7)] for query in QUERIES]


def same_answer_every_time(opened: Open) -> None:
    """Twice in one process, and after opening it anew."""
    first = opened()
    assert answers(first) == answers(first), "seed: two searches differ"
    assert answers(opened()) == answers(first), "seed: another opening differs"


def searching_changes_nothing(opened: Open) -> None:
    """Rows and vectors before and after."""
    index = opened()
    rows, vectors = index.vectors()
    answers(index)
    rows2, vectors2 = index.vectors()
    assert rows == rows2, "changes: the rows"
    assert np.array_equal(vectors, vectors2), "changes: the vectors"


def best_first_and_each_its_own(opened: Open) -> None:
    """Equal to a loop over all vectors: cosine, best first, equal ones by path."""
    index = opened()
    rows, vectors = index.vectors()
    for query in QUERIES:
        vector = index.encoder.encode_text([query])[0]
        wanted = sorted(
            (-float(sum(a * b for a, b in zip(v, vector, strict=True))), r.path)
            for r, v in zip(rows, vectors, strict=True)
        )
        hits = index.search(query, 7)
        for hit, (cosine, _) in zip(hits, wanted, strict=False):
            assert hit.score == pytest.approx(-cosine, abs=1e-4), "order: not the best first"
        own = {row.path: v for row, v in zip(rows, vectors, strict=True)}
        for hit in hits:
            assert hit.score == pytest.approx(float(own[hit.path] @ vector), abs=1e-4), "order: a score of another file"


RULES = {"seed": same_answer_every_time, "changes": searching_changes_nothing, "order": best_first_and_each_its_own}


@pytest.mark.parametrize("rule", sorted(RULES))
def test_conforms(rule: str, opener: Open) -> None:
    RULES[rule](opener)


class IgnoresTheSeed(LocalIndex):
    def nearest(self, query: FloatArray, k: int, where: str | None = None) -> tuple[list[Row], FloatArray, FloatArray]:
        rows, cosines, vectors = super().nearest(query, k, where)
        return rows, cosines + np.random.default_rng().normal(scale=1e-6, size=len(cosines)).astype(np.float32), vectors


class ChangesWhatItHolds(LocalIndex):
    searched = 0

    def nearest(self, query: FloatArray, k: int, where: str | None = None) -> tuple[list[Row], FloatArray, FloatArray]:
        self.searched += 1
        return super().nearest(query, k, where)

    def vectors(self) -> tuple[list[Row], FloatArray]:
        rows, vectors = super().vectors()
        return rows, vectors * np.float32(0.999**self.searched)


class WrongOrder(LocalIndex):
    def nearest(self, query: FloatArray, k: int, where: str | None = None) -> tuple[list[Row], FloatArray, FloatArray]:
        rows, cosines, vectors = super().nearest(query, k, where)
        return rows[::-1], cosines, vectors


@pytest.mark.parametrize(
    ("broken", "rule"), [(IgnoresTheSeed, "seed"), (ChangesWhatItHolds, "changes"), (WrongOrder, "order")]
)
def test_a_broken_index_is_found_out(broken: type[LocalIndex], rule: str, tmp_path: Path, photos: Path) -> None:
    with LocalIndex(tmp_path / "db", FakeEncoder()) as index:
        index.add([photos])
    with pytest.raises(AssertionError, match=f"^{rule}:"):
        RULES[rule](lambda: broken(tmp_path / "db", FakeEncoder()))
