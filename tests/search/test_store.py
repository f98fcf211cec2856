"""The SQLite file: whole batches, versions, locks, and what it says when it cannot be used."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from binderclip.errors import IndexLockedError, IndexStateError
from binderclip.search import schema
from binderclip.search.store import Entry, Problem, Store, show_path, unit_rows
from binderclip.search.writer import Writer


def entry(path: str, content: bytes, row: list[float] | None) -> Entry:
    return Entry(path.encode(), 10, 5, content, 4, 3, None, None if row is None else np.array(row, np.float32))


def test_two_paths_to_one_content_share_one_vector(tmp_path: Path) -> None:
    with Writer(tmp_path) as writer:
        model = writer.add_model("f", "m", 2)
        writer.commit(model, [entry("/a", b"1", [3, 4]), entry("/b", b"1", None)])
        assert [row.path for row in writer.rows()] == ["/a", "/b"]
        assert writer.vector_count(model) == 1
        np.testing.assert_allclose(writer.vector_of_path(b"/b", model), [0.6, 0.8], atol=1e-3)


def test_a_batch_is_committed_whole_or_not_at_all(tmp_path: Path) -> None:
    with Writer(tmp_path) as writer:
        model = writer.add_model("f", "m", 2)
        generation = writer.meta("generation")
        with pytest.raises(TypeError):  # the second entry has no vector and its content is unknown
            writer.commit(model, [entry("/a", b"1", [1, 0]), entry("/b", b"2", None)])
        assert list(writer.rows()) == []
        assert writer.meta("generation") == generation


def test_fp16_truth_comes_back_as_unit_rows() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    back = unit_rows([row.astype("<f2").tobytes() for row in rows], 16)
    np.testing.assert_allclose(np.linalg.norm(back, axis=1), 1, atol=1e-6)
    assert np.abs(back - rows).max() < 1e-3


def test_a_second_writer_says_who_holds_the_lock(tmp_path: Path) -> None:
    with Writer(tmp_path):
        with pytest.raises(IndexLockedError, match=f"process {os.getpid()} on .*--wait"):
            Writer(tmp_path)
        told: list[str] = []
        with pytest.raises(IndexLockedError):
            Writer(tmp_path, wait=0.25, on_wait=told.append)
        assert len(told) == 1
    Writer(tmp_path).close()


def test_a_killed_writer_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "import os, sys; from binderclip.search.writer import Writer; w = Writer(sys.argv[1]);"
        " print('locked', flush=True); sys.stdin.readline(); os._exit(9)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "locked\n"
        with pytest.raises(IndexLockedError, match=str(child.pid)):
            Writer(tmp_path)
        assert json.loads((tmp_path / "write.lock").read_text())["pid"] == child.pid
        child.communicate("\n")
    Writer(tmp_path).close()


def test_an_older_schema_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite3"
    link = sqlite3.connect(path, isolation_level=None)
    link.execute("CREATE TABLE things (name TEXT)")
    link.execute("INSERT INTO things VALUES ('kept')")
    link.execute(f"PRAGMA application_id={schema.APPLICATION}")
    link.execute("PRAGMA user_version=5")
    steps = {5: ("ALTER TABLE things ADD COLUMN size INTEGER DEFAULT 7",), 6: ("UPDATE things SET size=size+1",)}
    schema.prepare(link, version=7, migrations=steps)
    assert link.execute("SELECT * FROM things").fetchall() == [("kept", 8)]
    assert link.execute("PRAGMA user_version").fetchone() == (7,)
    schema.prepare(link, version=7, migrations=steps)
    assert link.execute("SELECT size FROM things").fetchall() == [(8,)]
    link.close()


def test_a_migration_that_fails_leaves_the_older_version(tmp_path: Path) -> None:
    link = sqlite3.connect(tmp_path / "old.sqlite3", isolation_level=None)
    link.execute("CREATE TABLE things (name TEXT)")
    link.execute(f"PRAGMA application_id={schema.APPLICATION}")
    link.execute("PRAGMA user_version=5")
    with pytest.raises(IndexStateError):
        schema.prepare(link, version=6, migrations={5: ("INSERT INTO things VALUES ('x')", "not SQL")})
    assert link.execute("SELECT count(*) FROM things").fetchone() == (0,)
    assert link.execute("PRAGMA user_version").fetchone() == (5,)
    link.close()


def test_a_newer_schema_is_refused_in_one_line(tmp_path: Path) -> None:
    with Writer(tmp_path) as writer:
        writer._link.execute("PRAGMA user_version=99")
    for opening in (Store, Writer):
        with pytest.raises(IndexStateError, match=r"schema 99 .* pip install --upgrade"):
            opening(tmp_path)


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IndexStateError, match="make one with: binderclip index"):
        Store(tmp_path)
    (tmp_path / "index.sqlite3").write_bytes(b"no database at all" * 100)
    with pytest.raises(IndexStateError, match="--db"):
        Store(tmp_path)
    (tmp_path / "index.sqlite3").unlink()
    link = sqlite3.connect(tmp_path / "index.sqlite3")
    link.execute("CREATE TABLE bookmarks (url)")
    link.close()
    with pytest.raises(IndexStateError, match="another program"):
        Writer(tmp_path)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(IndexStateError, match="cannot be written"):
        Writer(blocked / "below")


def test_prune_forgets_what_nothing_needs(tmp_path: Path) -> None:
    with Writer(tmp_path) as writer:
        old, new = writer.add_model("f1", "m", 2), writer.add_model("f2", "m", 2)
        for model in (old, new):
            writer.commit(
                model, [entry("/a", b"1", [1, 0]), entry("/b", b"2", [0, 1])], [Problem(b"/c", 1, 1, "is empty")]
            )
        writer.mark([b"/b", b"/c"], missing=True)
        assert writer.counts() == {"files": 1, "missing": 1, "contents": 2, "problems": 0}
        assert writer.prune() == {"files": 1, "vectors": 2}
        assert writer.prune(["f2"]) == {"files": 0, "vectors": 1}
        assert [model.fingerprint for model in writer.models()] == ["f2"]
        assert writer.integrity() == []


def test_paths_are_bytes_and_shown_with_replacement(tmp_path: Path) -> None:
    raw = b"/photos/\xff\xfe.jpg"
    with Writer(tmp_path) as writer:
        model = writer.add_model("f", "m", 2)
        writer.commit(model, [Entry(raw, 1, 1, b"1", 1, 1, None, np.array([1, 0], np.float32))])
        (row,) = writer.rows()
    assert row.raw_path == raw
    assert row.path == show_path(raw) == "/photos/\ufffd\ufffd.jpg"


def test_an_index_in_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Writer(tmp_path) as writer:
        writer.commit(writer.add_model("f", "m", 2), [entry("/a", b"1", [1, 0])])
    monkeypatch.setattr("os.access", lambda *_: False)  # chmod would not stop root
    before = sorted(tmp_path.iterdir())
    with Store(tmp_path) as store:
        assert [row.path for row in store.rows()] == ["/a"]
        assert sorted(tmp_path.iterdir()) == before
