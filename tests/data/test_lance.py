"""Lance tables, where the extra is installed; a line that names it where not."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from binderclip.data.pairs import Pairs
from binderclip.data.sources.lance import LancePairs
from binderclip.errors import InputError, NeedsExtraError
from tests.data.sources_kit import caption, picture

INSTALLED = importlib.util.find_spec("lancedb") is not None


def test_a_missing_extra_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lancedb", None)
    (tmp_path / "rows.lance").mkdir()
    with pytest.raises(NeedsExtraError, match="reading Lance tables needs the extra 'lance'"):
        Pairs.open(tmp_path / "rows.lance")


@pytest.mark.skipif(not INSTALLED, reason="lancedb is not installed")
def test_rows_of_a_table(tmp_path: Path) -> None:
    import lancedb

    rows = [{"image": picture(i), "caption": caption(i)} for i in range(130)]
    lancedb.connect(str(tmp_path)).create_table("rows", rows)
    pairs = Pairs.open(tmp_path / "rows.lance")
    assert len(pairs) == 130
    assert [row.caption for row in pairs] == [caption(i) for i in range(130)]
    for start, step in ((7, 1), (1, 3), (70, 5), (3, 64)):
        got = [row.caption for row in pairs.read(0, start, step)]  # type: ignore[attr-defined]
        assert got == [caption(i) for i in range(130)][start::step]
    with pytest.raises(InputError, match="no Lance table"):
        LancePairs(tmp_path / "other.lance")
