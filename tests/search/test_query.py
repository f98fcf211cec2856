"""What is typed, and the vector that it means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from binderclip.errors import InputError
from binderclip.search.query import Term, encode_query, parse_query

from .helpers import FakeEncoder, paint


@pytest.mark.parametrize(
    ("typed", "terms"),
    [
        ("a red bicycle", [Term("a red bicycle")]),
        (["a", "red", "bicycle"], [Term("a red bicycle")]),
        (["cat", "+", "night", "sky", "-", "city lights"], [Term("cat"), Term("night sky"), Term("city lights", -1.0)]),
        (["2:cat", "+", "0.5:dog"], [Term("cat", 2.0), Term("dog", 0.5)]),
        (["-", "dog"], [Term("dog", -1.0)]),
        (["a clock at", "3:30"], [Term("a clock at 3:30")]),
        ("3:30", [Term("3:30")]),
        ("AC/DC", [Term("AC/DC")]),
        ("well-known x-ray + y", [Term("well-known x-ray + y")]),
    ],
)
def test_words(typed: str | list[str], terms: list[Term]) -> None:
    assert parse_query(typed) == terms


def test_plus_and_not_options() -> None:
    assert parse_query(["cat"], plus=["2:sofa"], minus=["dog"]) == [Term("cat"), Term("sofa", 2.0), Term("dog", -1.0)]
    assert parse_query([], plus=["sofa"]) == [Term("sofa")]


@pytest.mark.parametrize(
    "typed",
    [[], [""], ["cat", "+"], ["+"], ["cat", "-", "-", "dog"], ["https://example.org/a.jpg"], ["./no.jpg"], ["2: "]],
)
def test_what_cannot_be_read_is_refused(typed: list[str]) -> None:
    with pytest.raises(InputError):
        parse_query(typed)


def test_files_are_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = paint(tmp_path / "my cat.png", (200, 0, 0))
    (tmp_path / "cat").write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert parse_query(str(path)) == [Term(str(path), is_image=True)]
    assert parse_query("my cat.png") == [Term("my cat.png", is_image=True)]
    assert parse_query(["2:my cat.png", "+", "dog"]) == [Term("my cat.png", 2.0, is_image=True), Term("dog")]
    assert parse_query("cat") == [Term("cat")]
    assert parse_query("./cat") == [Term("./cat", is_image=True)]


def test_the_vector_is_the_weighted_sum_of_unit_vectors(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    path = paint(tmp_path / "x.png", (10, 200, 10))
    terms = [Term("red", 2.0), Term("blue", -0.5), Term(str(path), is_image=True)]
    summed = (
        2.0 * encoder.encode_text(["red"])[0] - 0.5 * encoder.encode_text(["blue"])[0] + encoder.encode_image([path])[0]
    )
    np.testing.assert_allclose(encode_query(terms, encoder), summed / np.linalg.norm(summed), atol=1e-6)


def test_parts_that_cancel_are_refused() -> None:
    with pytest.raises(InputError, match="cancel"):
        encode_query([Term("red"), Term("red", -1.0)], FakeEncoder())
