"""Videos in an index: a vector a second, one file; unchanged, moved, deleted, stopped half-way, damaged."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from binderclip.cli.main import run
from binderclip.data.video import Video
from binderclip.errors import IndexStateError
from binderclip.search import schema
from binderclip.search.base import Index
from binderclip.search.dedup import find_duplicates
from binderclip.search.frames import changed_frames
from binderclip.search.index import LocalIndex
from binderclip.search.store import Store
from binderclip.search.types import show_time

from ..data.video_kit import counting, flat, write_video
from .helpers import COLOURS, FakeEncoder, dump, paint

RGB = [COLOURS["red"], COLOURS["green"], COLOURS["blue"]]


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """A clip that is red, then green, then blue, three seconds each; one that is yellow; a green picture."""
    folder = tmp_path / "media"
    write_video(folder / "clip.mp4", flat(RGB, 30), rate=10)
    write_video(folder / "sun.mkv", flat([COLOURS["yellow"]], 15), rate=10)
    paint(folder / "leaf.png", COLOURS["green"], noise=90)
    return folder


def held(folder: Path) -> list[tuple[Any, ...]]:
    """All frames that an index holds, as plain values."""
    with Store(folder) as store:
        (model,) = store.models()
        return [(row, blob) for row, blob in store.rows_with_vectors(model, moments=True)]


def test_a_search_answers_with_a_time_and_one_hit_a_video(tmp_path: Path, media: Path, encoder: FakeEncoder) -> None:
    with Index.open(tmp_path / "db", encoder) as index:
        report = index.add([media])
        assert (report.encoded, report.frames, report.bad, report.damaged) == (3, 4, [], [])
        hits = index.search("green")
        assert [(Path(hit.path).name, hit.row.time) for hit in hits[:2]] == [("clip.mp4", 3.0), ("leaf.png", None)]
        assert len(hits) == 3
        assert hits[0].row.moment == "0:03"
        assert hits[0].as_json()["time"] == 3.0
        assert [hit.row.time for hit in index.search("blue", 1)] == [6.0]
        assert (hits[0].row.width, hits[0].row.height) == (64, 48)
        assert hits[0].row.size == (media / "clip.mp4").stat().st_size


def test_all_moments_of_a_video(tmp_path: Path, media: Path, encoder: FakeEncoder) -> None:
    with Index.open(tmp_path / "db", encoder) as index:
        index.add([media])
        found = [(Path(hit.path).name, hit.row.time) for hit in index.search("red", 9, moments=True)]
        assert sorted(found, key=str) == [
            ("clip.mp4", 0.0), ("clip.mp4", 3.0), ("clip.mp4", 6.0), ("leaf.png", None), ("sun.mkv", 0.0),
        ]  # fmt: skip
        assert found[0] == ("clip.mp4", 0.0)
        only = index.search("red", 9, moments=True, where="type=mp4 and size>1")
        assert {hit.row.path for hit in only} == {str(media / "clip.mp4")}


def test_one_hit_a_video_among_very_many_frames(tmp_path: Path, encoder: FakeEncoder) -> None:
    write_video(tmp_path / "in" / "long.mp4", counting(600), rate=2)  # 600 frames, none like the one before
    paint(tmp_path / "in" / "far.png", COLOURS["blue"])
    with Index.open(tmp_path / "db", encoder) as index:
        assert index.add([tmp_path / "in"], every=0.5).frames > 400
        hits = index.search("green", 5, fold=0.98)
        assert [Path(hit.path).name for hit in hits] == ["long.mp4", "far.png"]


def test_what_has_not_changed_is_not_decoded_again(
    tmp_path: Path, media: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Index.open(tmp_path / "db", encoder) as index:
        index.add([media])
        monkeypatch.setattr(Video, "__init__", lambda *_: pytest.fail("decoded again"))
        report = index.add([media])
        assert (report.unchanged, report.encoded) == (3, 0)
        os.rename(media / "clip.mp4", media / "moved.mp4")
        shutil.copy(media / "sun.mkv", media / "copy.mkv")
        report = index.add([media])
        assert (report.same_content, report.missing, report.unchanged) == (2, 1, 2)
        assert [Path(hit.path).name for hit in index.search("red", 1)] == ["moved.mp4"]
        os.remove(media / "moved.mp4")
        assert index.add([media]).missing == 1
        assert "moved.mp4" not in [Path(hit.path).name for hit in index.search("red", 9)]
        assert index.prune()["vectors"] == 3
        assert index.verify(deep=True) == []


def test_a_changed_video_takes_the_place_of_the_old(tmp_path: Path, media: Path, encoder: FakeEncoder) -> None:
    with Index.open(tmp_path / "db", encoder) as index:
        index.add([media])
        write_video(media / "clip.mp4", flat([COLOURS["white"], RGB[0]], 20), rate=10)
        assert index.add([media]).encoded == 1
        assert [(hit.row.time, Path(hit.path).name) for hit in index.search("red", 1)] == [(2.0, "clip.mp4")]
        assert index.verify(deep=True) == []


class Stopped(FakeEncoder):
    """Is interrupted once it has encoded so many."""

    left = 5

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        if self.encoded >= self.left:
            raise KeyboardInterrupt
        return super().encode_pixels(pixels)


@pytest.mark.parametrize("left", [1, 4, 7, 10])
def test_a_stop_in_the_middle_is_known_and_resumed(tmp_path: Path, left: int) -> None:
    source = tmp_path / "in"
    write_video(source / "a.mp4", counting(120), rate=10)
    whole, half, encoder = tmp_path / "whole", tmp_path / "half", FakeEncoder()
    with Index.open(whole, encoder) as index:
        index.add([source])
    frames = held(whole)
    assert len(frames) == 12
    broken = Stopped()
    broken.left = left
    with Index.open(half, broken) as index, pytest.raises(KeyboardInterrupt):
        index.add([source], batch=2)
    kept = held(half)
    assert 0 < len(kept) < 12
    assert kept == frames[: len(kept)]
    with Store(half) as store:
        assert [known.encoded for known in store.known(1).values()] == [False]
    again = FakeEncoder()
    with LocalIndex(half, again) as index:
        assert index.unencoded()[0] == 1
        assert index.info()["models"][0]["unfinished"] == 1
        assert index.search("red", 1)[0].row.time is not None  # what is there can be searched meanwhile
        index.add([source])
        assert again.encoded == 12 - len(kept)
        assert index.unencoded() == (0, [])
        assert index.verify(deep=True) == []
    assert held(half) == frames
    assert dump(half) == dump(whole)


def test_a_second_model_and_a_half_read_video(tmp_path: Path, media: Path) -> None:
    first, second = FakeEncoder("one"), Stopped("two")
    second.left = 2
    with Index.open(tmp_path / "db", first) as index:
        index.add([media])
    with Index.open(tmp_path / "db", second) as index, pytest.raises(KeyboardInterrupt):
        index.add([media], batch=1)
    with LocalIndex(tmp_path / "db", "one") as index:
        assert [model.name for model in index.store.models()] == ["fake"] * 2
        assert index.store.unfinished(index.store.models()[0]) == 0
        assert index.prune(models=True)["vectors"] > 0
        assert index.store.integrity() == []


def test_bad_videos_are_counted_and_never_fatal(
    tmp_path: Path, media: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (media / "a.mp4").write_text("text")
    (media / "b.mov").write_bytes(b"")
    with Index.open(tmp_path / "db", encoder) as index:
        report = index.add([media])
        assert report.encoded == 3
        assert [(Path(path).name, reason) for path, reason in report.bad] == [
            ("a.mp4", "is no video that can be read"), ("b.mov", "is empty (zero bytes)"),
        ]  # fmt: skip
        assert len(index.add([media]).known_bad) == 2
        assert len(index.add([media], retry=True).bad) == 2


def test_a_video_that_changes_while_it_is_read_is_not_taken(tmp_path: Path, media: Path, encoder: FakeEncoder) -> None:
    path = media / "clip.mp4"
    pixels = encoder.pixels

    def growing(image: Any) -> np.ndarray:
        with open(path, "ab") as stream:
            stream.write(b"more")
        return pixels(image)

    encoder.pixels = growing  # type: ignore[method-assign]
    with Index.open(tmp_path / "db", encoder) as index:
        report = index.add([path])
        assert [reason for _, reason in report.bad] == ["changed while it was read"]
        assert list(index.rows()) == []
        encoder.pixels = pixels  # type: ignore[method-assign]
        assert index.add([path]).encoded == 1


def test_a_video_is_one_row_where_rows_are_files(tmp_path: Path, media: Path, encoder: FakeEncoder) -> None:
    shutil.copy(media / "clip.mp4", media / "twin.mp4")
    with LocalIndex(tmp_path / "db", encoder) as index:
        index.add([media])
        rows, vectors = index.vectors()
        assert [(Path(row.path).name, row.time) for row in rows] == [
            ("clip.mp4", None), ("leaf.png", None), ("sun.mkv", None), ("twin.mp4", None),
        ]  # fmt: skip
        every, frames = index.vectors(moments=True)
        mine = frames[[i for i, row in enumerate(every) if row.path == rows[0].path]]
        mean = mine.mean(axis=0) / np.linalg.norm(mine.mean(axis=0))
        np.testing.assert_allclose(vectors[0], mean, atol=1e-3)
        np.testing.assert_allclose(index.vector_of(media / "clip.mp4"), mean, atol=1e-6)
        (group,) = find_duplicates(rows, vectors)
        assert group.exact
        assert [Path(row.path).name for row in (group.keep, *group.others)] == ["clip.mp4", "twin.mp4"]
        best = index.search(os.fspath(media / "sun.mkv"), 1)  # a video can be asked with
        assert Path(best[0].path).name == "sun.mkv"
        assert best[0].score > 0.999


def test_frames_that_say_the_same_are_not_kept() -> None:
    rows = np.array([[1, 0], [0.9999, 0.0141], [0.96, 0.28], [0.8, 0.6], [0.8, 0.6]], np.float32)
    kept, last = changed_frames(rows, None)
    assert kept == [0, 2, 3]
    assert changed_frames(rows[3:], last)[0] == []
    assert changed_frames(rows[:0], None) == ([], None)


OLD = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID",
    "CREATE TABLE models (id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE, name TEXT NOT NULL,"
    " dim INTEGER NOT NULL)",
    "CREATE TABLE roots (path BLOB PRIMARY KEY) WITHOUT ROWID",
    "CREATE TABLE contents (id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, width INTEGER NOT NULL,"
    " height INTEGER NOT NULL, taken TEXT)",
    "CREATE TABLE files (id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, shown TEXT NOT NULL,"
    " content INTEGER NOT NULL REFERENCES contents (id), size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,"
    " state INTEGER NOT NULL DEFAULT 0)",
    "CREATE INDEX files_content ON files (content)",
    "CREATE TABLE vectors (id INTEGER PRIMARY KEY AUTOINCREMENT, content INTEGER NOT NULL REFERENCES contents (id),"
    " model INTEGER NOT NULL REFERENCES models (id), vector BLOB NOT NULL, UNIQUE (content, model))",
    "CREATE INDEX vectors_model ON vectors (model)",
    "CREATE TABLE problems (path BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,"
    " reason TEXT NOT NULL) WITHOUT ROWID",
)


def age(new: Path, old: Path) -> None:
    """Writes what a fresh index holds as version 1 wrote it."""
    shutil.copytree(new, old)
    (old / "index.sqlite3").unlink()
    link = sqlite3.connect(old / "index.sqlite3", isolation_level=None)
    for statement in OLD:
        link.execute(statement)
    link.execute(f"ATTACH '{new / 'index.sqlite3'}' AS new")
    for table in ("meta", "models", "roots", "contents", "files", "problems"):
        link.execute(f"INSERT INTO main.{table} SELECT * FROM new.{table}")
    link.execute("INSERT INTO main.vectors SELECT id, content, model, vector FROM new.vectors")
    link.execute(f"PRAGMA application_id={schema.APPLICATION}")
    link.execute("PRAGMA user_version=1")
    link.close()


def test_an_index_of_version_1_is_read_and_migrated(
    tmp_path: Path, photos: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, old, fixed = tmp_path / "new", tmp_path / "old", tmp_path / "fixed"
    with Index.open(new, encoder) as index:
        index.add([photos])
        expected = [hit.as_json() for hit in index.search("green", 9)]
    age(new, old)
    shutil.copytree(old, fixed)
    with Index.open(old, encoder) as index:
        assert [hit.as_json() for hit in index.search("green", 9)] == expected
        write_video(photos / "clip.mp4", flat(RGB, 20), rate=10)
        report = index.add([photos])
        assert (report.unchanged, report.encoded) == (30, 1)
        assert index.verify(deep=True) == []
    with sqlite3.connect(old / "index.sqlite3") as link:
        assert link.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
    monkeypatch.setattr("os.access", lambda *_: False)  # a shared disk that may not be written
    before = (fixed / "index.sqlite3").read_bytes()
    with LocalIndex(fixed, encoder) as index:
        assert [hit.as_json() for hit in index.search("green", 9)] == expected
        assert index.unencoded() == (0, [])
    assert (fixed / "index.sqlite3").read_bytes() == before
    with sqlite3.connect(tmp_path / "none.sqlite3") as link, pytest.raises(IndexStateError, match="schema 0"):
        schema.read_as_is(link, 0)


@pytest.fixture
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("binderclip.search.index.load_encoder", lambda *asked: FakeEncoder())
    monkeypatch.setattr("binderclip.search.base.load_encoder", lambda *asked: FakeEncoder())


@pytest.mark.usefixtures("_fake")
def test_the_verbs(tmp_path: Path, media: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (media / "bad.mp4").write_text("text")
    db = ["--db", str(tmp_path / "db")]
    assert run(["index", str(media), *db, "--every", "0.5"]) == 0
    said = capsys.readouterr().err
    assert f"warning: {media / 'bad.mp4'}: is no video that can be read" in said
    assert "4 files: 3 encoded, 0 unchanged, 4 frames of videos, 1 could not be read" in said
    assert run(["search", "green", *db]) == 0
    assert f"{media / 'clip.mp4'} @ 0:03" in capsys.readouterr().out
    assert run(["search", "blue", *db, "--json", "-n", "1", "--html", str(tmp_path / "sheet.html")]) == 0
    (hit,) = json.loads(capsys.readouterr().out)
    assert (hit["path"], hit["time"]) == (str(media / "clip.mp4"), 6.0)
    sheet = (tmp_path / "sheet.html").read_text()
    assert "at 0:06" in sheet
    assert "data:image/jpeg" in sheet
    assert run(["search", "blue", *db, "--moments", "-n", "3", "-f"]) == 0
    assert capsys.readouterr().out.splitlines() == [str(media / "clip.mp4")]
    assert run(["search", str(media / "bad.mp4"), *db]) == 2
    assert "bad.mp4 is no video that can be read" in capsys.readouterr().err
    assert run(["index", "info", *db]) == 0
    assert "4 of frames of videos" in capsys.readouterr().out
    for bad in ("0", "-1", "nan"):
        assert run(["index", str(media), *db, "--every", bad]) == 2
        assert "more than 0" in capsys.readouterr().err


@pytest.mark.usefixtures("_fake")
def test_without_pyav_videos_are_counted_in_one_line(
    tmp_path: Path, media: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    db = ["--db", str(tmp_path / "db")]
    assert run(["index", str(media), *db]) == 0
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "av", None)
    assert run(["index", str(media), *db]) == 0
    said = capsys.readouterr().err
    assert "2 files left out, readable with the extra 'video': pip install 'binderclip[video]'" in said
    assert "gone" not in said  # what is left out is not deleted
    assert run(["search", "blue", *db]) == 0
    assert "clip.mp4 @ 0:06" in capsys.readouterr().out


def test_times_for_people() -> None:
    assert [show_time(t) for t in (0.0, 11.9999, 59.4, 61, 3599, 3750.2)] == [
        "0:00", "0:12", "0:59", "1:01", "59:59", "1:02:30",
    ]  # fmt: skip


@pytest.mark.data
def test_real_clips_are_found(tmp_path: Path, shared_data: Path) -> None:
    with LocalIndex(tmp_path / "db", "pocket") as index:
        report = index.add([shared_data / "videos"])
        assert report.encoded == 11
        assert [Path(path).name for path, _ in report.damaged] == ["corrupted.mp4"]
        best = index.search("a computer keyboard", 1)[0]
        assert Path(best.path).name == "rotated_90.mov"
        assert best.row.moment == "0:00"


def test_a_lance_table_carries_the_moments(tmp_path: Path, media: Path, encoder: FakeEncoder) -> None:
    pytest.importorskip("lancedb")
    from binderclip.search.lance import LanceIndex

    with LocalIndex(tmp_path / "db", encoder) as index, LanceIndex(str(tmp_path / "table"), encoder) as table:
        index.add([media])
        assert table.fill_from(index) == 4 + 1  # frames, and a picture
        mine, theirs = (
            [(hit.path, hit.row.time, round(hit.score, 4)) for hit in one.search("blue", 9)] for one in (index, table)
        )
        assert mine == theirs
        assert [row.path for row in table.rows()] == [row.path for row in index.rows()]
        assert all(row.time is None for row in table.rows())
        np.testing.assert_allclose(table.vectors()[1], index.vectors()[1], atol=1e-3)
        np.testing.assert_allclose(table.vector_of(media / "clip.mp4"), index.vector_of(media / "clip.mp4"), atol=1e-3)
        with LocalIndex(tmp_path / "back", encoder) as back:
            table.copy_into(back)
            assert [(hit.path, hit.row.time) for hit in back.search("blue", 9)] == [one[:2] for one in mine]
            assert back.add([media]).unchanged == 3
