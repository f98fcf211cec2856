"""The filter language against Python predicates over the same rows."""

from __future__ import annotations

import datetime
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from binderclip.errors import InputError
from binderclip.search.index import LocalIndex
from binderclip.search.store import Entry
from binderclip.search.types import Row
from binderclip.search.where import parse_where
from binderclip.search.writer import Writer

from .helpers import FakeEncoder

FILES = [
    ("/photos/Holiday/Été.JPG", 2_000_000, "2024-01-31T23:59:59", 4000, 3000),
    ("/photos/holiday/b.png", 400_000, "2024-02-01T00:00:00", 800, 600),
    ('/photos/work/it\'s "quoted".webp', 1_000_000, None, 100, 900),
    ("/photos/work/100%_done.jpg", 1_048_576, "2023-12-31T12:00:00", 1, 1),
]
MTIME = 1_700_000_000  # 2023-11-14T22:13:20


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> LocalIndex:
    folder = tmp_path_factory.mktemp("where")
    with Writer(folder) as writer:
        model = writer.add_model("f", "m", 2)
        vector = np.array([1, 0], np.float32)
        writer.commit(
            model,
            [Entry(p.encode(), s, MTIME * 10**9, p.encode(), w, h, t, vector) for p, s, t, w, h in FILES],
        )
    return LocalIndex(folder, FakeEncoder())


def moment(row: Row) -> str:
    return row.taken or datetime.datetime.fromtimestamp(row.mtime, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("path~holiday", lambda r: "holiday" in r.path.lower()),
        ("path!~HOLIDAY", lambda r: "holiday" not in r.path.lower()),
        ("name~été", lambda r: r.path.endswith("Été.JPG")),
        ("type=jpg", lambda r: r.path.lower().endswith(".jpg")),
        ("type!=.jpg", lambda r: not r.path.lower().endswith(".jpg")),
        ("folder=/photos/work", lambda r: r.path.startswith("/photos/work/")),
        ("date>=2024", lambda r: moment(r) >= "2024"),
        ("date<=2024-01", lambda r: moment(r)[:7] <= "2024-01"),
        ("date=2023-11-14", lambda r: moment(r).startswith("2023-11-14")),
        ("date>2024-01-31", lambda r: moment(r)[:10] > "2024-01-31"),
        ("size>1MB", lambda r: r.size > 1_000_000),
        ("size>=1MB and size<1MiB", lambda r: 1_000_000 <= r.size < 2**20),
        ("width>height", None),
        ("width>=800 and (type=png or date<2024-02)", lambda r: r.width >= 800),
        ("not path~work", lambda r: "work" not in r.path),
        ("path~work or path~holiday and size<1MB", lambda r: "work" in r.path or r.size < 1_000_000),
        ("path~'quoted\"'", lambda r: 'quoted"' in r.path),
        ('path~"it\'s"', lambda r: "it's" in r.path),
        ("path~%_", lambda r: "%_" in r.path),
        ("  PATH ~ work  AND  height > 1  ", lambda r: "work" in r.path and r.height > 1),
        ("", lambda _: True),
    ],
)
def test_filters(index: LocalIndex, text: str, holds: Callable[[Row], bool] | None) -> None:
    if holds is None:
        with pytest.raises(InputError):
            list(index.rows(text))
    else:
        assert list(index.rows(text)) == [row for row in index.rows() if holds(row)]


@pytest.mark.parametrize(
    "text",
    ["path", "path~", "~x", "colour=red", "size>big", "date=yesterday", "path>3", "size~3", "path~a path~b", "(path~a",
     "path~a)", "path~a and", "not", "path='a", "width>3MB", "(" * 200 + "path~a" + ")" * 200, "date=2024-1", "'a'=b"],
)  # fmt: skip
def test_what_cannot_be_read_is_told_in_one_line(text: str) -> None:
    with pytest.raises(InputError, match="--where") as told:
        parse_where(text)
    assert "\n" not in str(told.value)


def test_values_are_never_part_of_the_sql(index: LocalIndex) -> None:
    evil = "x'); DROP TABLE files; --"
    condition = parse_where(f'path~"{evil}"')
    assert f"%{evil}%" in condition.values
    assert "DROP" not in condition.sql
    assert list(index.rows(f'path~"{evil}"')) == []
    assert len(list(index.rows())) == len(FILES)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        condition = parse_where(text)
    except InputError:
        return
    assert condition.sql.count("?") == len(condition.values)
