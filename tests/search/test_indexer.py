"""Bringing an index up to date: what is read, what is not, and what becomes of files that come, change, move and go."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from binderclip.errors import IndexStateError, InputError, MediaError
from binderclip.search import reading
from binderclip.search.base import Index
from binderclip.search.index import LocalIndex
from binderclip.search.indexer import read_batches
from binderclip.search.scan import scan
from binderclip.search.types import Hit

from .helpers import COLOURS, FakeEncoder, dump, paint


@pytest.fixture
def index(tmp_path: Path, encoder: FakeEncoder) -> LocalIndex:
    opened = Index.open(tmp_path / "db", encoder)
    assert isinstance(opened, LocalIndex)
    return opened


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Paths that were read, in no order."""
    seen: list[bytes] = []
    real = reading.read_file

    def spy(path: bytes) -> object:
        seen.append(path)
        return real(path)

    monkeypatch.setattr(reading, "read_file", spy)
    return seen


def paths(hits: list[Hit]) -> list[str]:
    return [Path(hit.path).name for hit in hits]


def test_search_equals_brute_force(index: LocalIndex, photos: Path, encoder: FakeEncoder) -> None:
    report = index.add([photos])
    assert (report.found, report.encoded, report.indexed) == (30, 30, 30)
    files = sorted(photos.rglob("*.png"))
    truth = encoder.encode_image(files).astype(np.float16).astype(np.float32)
    truth /= np.linalg.norm(truth, axis=1, keepdims=True)
    for query in ("red", "blue", "yellow white", "nonsense"):
        cosines = truth @ encoder.encode_text([query])[0]
        order = sorted(range(30), key=lambda i: (-float(cosines[i]), os.fsencode(files[i])))[:7]
        hits = index.search(query, 7)
        assert [hit.path for hit in hits] == [str(files[i]) for i in order]
        np.testing.assert_allclose([hit.score for hit in hits], cosines[order], atol=1e-6)
        assert all(hit.probability is None for hit in hits)


def test_unchanged_files_are_not_read_again(
    index: LocalIndex, photos: Path, reads: list[bytes], encoder: FakeEncoder
) -> None:
    index.add([photos])
    assert len(reads) == 30
    report = index.add([photos])
    assert (len(reads), report.unchanged, report.encoded) == (30, 30, 0)
    paint(photos / "day0" / "red0.png", (10, 10, 240), seed=99, size=(50, 50))
    report = index.add([photos])
    assert (len(reads), report.unchanged, report.encoded, encoder.encoded) == (31, 29, 1, 31)
    assert "red0.png" in paths(index.search("blue", 7))


def test_a_moved_file_is_read_but_not_encoded_again(index: LocalIndex, photos: Path, encoder: FakeEncoder) -> None:
    index.add([photos])
    (photos / "day0" / "red0.png").rename(photos / "new name.png")
    shutil.copy(photos / "day1" / "red1.png", photos / "copy.png")
    report = index.add([photos])
    assert (report.same_content, report.missing, report.encoded, encoder.encoded) == (2, 1, 0, 30)
    assert {"new name.png", "copy.png", "red1.png"} <= set(paths(index.search("red", 7)))
    assert "red0.png" not in paths(index.search("red", 31))


def test_two_paths_to_one_content_are_encoded_once(index: LocalIndex, tmp_path: Path, encoder: FakeEncoder) -> None:
    first = paint(tmp_path / "p" / "a.png", (255, 0, 0))
    shutil.copy(first, tmp_path / "p" / "b.png")
    report = index.add([tmp_path / "p"])
    assert (report.encoded, report.same_content, encoder.encoded) == (1, 1, 1)
    assert paths(index.search("red", 5)) == ["a.png", "b.png"]
    assert [(hit.path[-5:], len(hit.folded)) for hit in index.search("red", 5, fold=0.99)] == [("a.png", 1)]


def test_deleted_files_are_marked_and_come_back_without_reading(
    index: LocalIndex, photos: Path, tmp_path: Path, reads: list[bytes]
) -> None:
    index.add([photos])
    shutil.move(photos / "day1", tmp_path / "away")
    assert index.add([photos]).missing == 10
    assert len(index.search("red", 30)) == 20
    shutil.move(tmp_path / "away", photos / "day1")
    report = index.add([photos])
    assert (report.back, report.encoded, len(reads)) == (10, 0, 30)
    assert len(index.search("red", 30)) == 30


@pytest.mark.parametrize("empty", [True, False])
def test_a_root_that_is_gone_or_empty_deletes_nothing(index: LocalIndex, photos: Path, empty: bool) -> None:
    index.add([photos])
    shutil.rmtree(photos)
    if empty:
        photos.mkdir()  # what is left of a disk that is not mounted
    report = index.add([photos])
    assert (report.missing, report.kept) == (0, [str(photos)])
    assert len(index.search("red", 40)) == 30


def test_an_unreadable_folder_deletes_nothing(index: LocalIndex, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index.add([photos])
    real = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("day2"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr("os.scandir", refuse)
    report = index.add([photos])
    assert (report.missing, report.unreadable) == (0, [(str(photos / "day2"), "Permission denied")])


def test_ignored_files_stay_until_they_are_removed(index: LocalIndex, photos: Path) -> None:
    index.add([photos])
    assert index.add([photos], ignore=["day1/"]).missing == 0
    assert index.remove([photos / "day1"]) == 10
    assert index.add([photos], ignore=["day1/"]).unchanged == 20
    assert index.prune()["vectors"] == 10


def test_bad_files_are_told_once_kept_and_tried_when_they_change(
    index: LocalIndex, photos: Path, reads: list[bytes]
) -> None:
    (photos / "bad.jpg").write_bytes(b"no picture")
    (photos / "empty.png").write_bytes(b"")
    whole = (photos / "day0" / "red0.png").read_bytes()
    (photos / "half.png").write_bytes(whole[: len(whole) // 2])
    told: list[tuple[str, str]] = []
    report = index.add([photos], on_bad=lambda path, reason: told.append((path, reason)))
    assert sorted(Path(path).name for path, _ in told) == ["bad.jpg", "empty.png", "half.png"]
    assert told == report.bad
    assert (report.indexed + len(report.bad), report.found) == (33, 33)
    count = len(reads)
    report = index.add([photos])
    assert (len(reads), report.bad, len(report.known_bad)) == (count, [], 3)
    assert len(index.add([photos], retry=True).bad) == 3
    (photos / "half.png").write_bytes(whole)
    report = index.add([photos])
    assert (report.same_content, len(report.known_bad)) == (1, 2)
    (photos / "bad.jpg").unlink()
    index.add([photos])
    assert index.info()["problems"] == 1


def test_a_good_file_that_turns_bad_leaves_the_index(index: LocalIndex, photos: Path) -> None:
    index.add([photos])
    (photos / "day0" / "red0.png").write_bytes(b"overwritten")
    report = index.add([photos])
    assert len(report.bad) == 1
    assert "red0.png" not in paths(index.search("red", 30))


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = paint(tmp_path / "a.png", (255, 0, 0))
    calls = iter(range(100))
    real = os.fstat

    def restless(handle: int) -> os.stat_result:
        os.utime(path, ns=(0, next(calls) * 10**9))
        return real(handle)

    monkeypatch.setattr("os.fstat", restless)
    with pytest.raises(MediaError, match="changed while it was read"):
        reading.read_file(os.fsencode(path))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_not_utf8(index: LocalIndex, tmp_path: Path) -> None:
    first = paint(tmp_path / "p" / "a.png", (255, 0, 0))
    raw = os.fsencode(tmp_path / "p") + b"/\xff\xfe.png"
    os.rename(first, os.fsdecode(raw))
    index.add([tmp_path / "p"])
    (hit,) = index.search("red", 5)
    assert hit.row.raw_path == raw
    assert hit.path.endswith("/\ufffd\ufffd.png")
    assert index.vector_of(os.fsdecode(raw)) is not None
    assert index.add([tmp_path / "p"]).unchanged == 1


def test_dry_run_writes_nothing(index: LocalIndex, photos: Path) -> None:
    report = index.add([photos], dry_run=True)
    assert (report.encoded, index.folder.exists()) == (30, False)
    index.add([photos / "day0"])
    before = dump(index.folder)
    report = index.add([photos], dry_run=True)
    assert (report.encoded, report.unchanged) == (20, 10)
    assert dump(index.folder) == before


def test_several_models_side_by_side(tmp_path: Path, photos: Path) -> None:
    db, one, two = tmp_path / "db", FakeEncoder("one"), FakeEncoder("two")
    with Index.open(db, one) as index:
        index.add([photos])
        expected = [hit.path for hit in index.search("red", 5)]
    with (
        Index.open(db, two) as index,
        pytest.raises(IndexStateError, match=r"re-encode with: binderclip index .*photos --model"),
    ):
        index.search("red")
    with Index.open(db, two) as index:
        assert index.add([photos / "day0"]).encoded == 10
        assert index.unencoded()[0] == 20
        assert index.add([photos]).encoded == 20
        assert [hit.path for hit in index.search("red", 5)] == expected
    with Index.open(db, one) as index:
        assert [hit.path for hit in index.search("red", 5)] == expected
        assert index.prune(models=True)["vectors"] == 30
    with Index.open(db, two) as index:
        assert index.verify() == []


def test_nothing_to_index_is_refused(index: LocalIndex, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        index.add([tmp_path / "nowhere"])
    assert not index.folder.exists()


def test_reading_runs_at_most_two_batches_ahead(photos: Path, encoder: FakeEncoder) -> None:
    started, lock = [0], threading.Lock()

    class Counting(FakeEncoder):
        def pixels(self, image: object) -> np.ndarray:
            with lock:
                started[0] += 1
            return super().pixels(image)  # type: ignore[arg-type]

    found = scan([photos], {".png"}).files
    done = 0
    for outcomes in read_batches(found, Counting(), batch=4, threads=2):
        done += len(outcomes)
        assert started[0] <= done + 2 * 4 + 2
    assert done == 30


def test_batches_keep_the_order_of_the_files(photos: Path, encoder: FakeEncoder) -> None:
    found = scan([photos], {".png"}).files
    read = [one.found.path for outcomes in read_batches(found, encoder, batch=7, threads=4) for one in outcomes]
    assert read == [file.path for file in found]


def test_progress_and_what_limits(index: LocalIndex, photos: Path) -> None:
    seen = []
    report = index.add([photos], batch=8, on_progress=lambda now: seen.append((now.done, now.total, now.limited_by)))
    assert [done for done, _, _ in seen] == [8, 16, 24, 30]
    assert {total for _, total, _ in seen} == {30}
    assert report.limited_by in {"reading and decoding", "the model", "the disk"}


class HalfSure:
    """Probability one half at a cosine of 0.9."""

    def probability(self, query: np.ndarray, cosines: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-50 * (cosines - 0.9)))


def test_probability_and_auto(tmp_path: Path, photos: Path) -> None:
    with Index.open(tmp_path / "db", FakeEncoder(calibration=HalfSure())) as index:
        index.add([photos])
        hits = index.search("red", 30, min_score="auto")
        assert paths(hits)
        assert all(name.startswith("red") for name in paths(hits))
        assert all(hit.probability is not None and hit.probability >= 0.5 for hit in hits)
        assert index.search("blue", where="name~red", min_score="auto") == []
        assert index.search(photos / "day0" / "red0.png", 1)[0].probability is None
        with pytest.raises(InputError, match="auto"):
            index.search(photos / "day0" / "red0.png", min_score="auto")
        least = [hit for hit in index.search("red", 30) if hit.score >= 0.5]
        assert index.search("red", 30, min_score=0.5) == least
        shown = hits[0].as_json()
        assert list(shown)[:3] == ["path", "score", "probability"]


def test_auto_without_calibration_names_the_way(index: LocalIndex, photos: Path) -> None:
    index.add([photos])
    with pytest.raises(InputError, match="binderclip models calibrate"):
        index.search("red", min_score="auto")


def test_folding_fills_the_list(index: LocalIndex, tmp_path: Path) -> None:
    for i in range(150):
        paint(tmp_path / "p" / f"red{i:03d}.png", COLOURS["red"], seed=i, noise=2)
    paint(tmp_path / "p" / "blue.png", COLOURS["blue"])
    index.add([tmp_path / "p"])
    hits = index.search("red", 2, fold=0.98)
    assert [len(hit.folded) for hit in hits] == [149, 0]


def test_queries_of_every_kind(index: LocalIndex, photos: Path, encoder: FakeEncoder) -> None:
    index.add([photos])
    vector = encoder.encode_text(["blue"])[0]
    assert index.search("blue", 5) == index.search(vector, 5) == index.search(["blue"], 5)
    assert paths(index.search(["red", "+", "blue", "-", "red"], 1)) == paths(index.search("blue", 1))
    with pytest.raises(InputError, match="shape"):
        index.search(vector[:5])
    with pytest.raises(InputError, match="no such picture"):
        index.search(photos / "none.png")


@pytest.mark.parametrize("damage", ["x'00'", "zeroblob(length(vector))"])
def test_verify_finds_damage(index: LocalIndex, photos: Path, damage: str) -> None:
    index.add([photos])
    assert index.verify(deep=True) == []
    (photos / "day0" / "red0.png").write_bytes(b"changed")
    (photos / "day0" / "red3.png").unlink()
    assert len(index.verify(deep=True)) == 2
    index.store._link.execute(f"UPDATE vectors SET vector={damage} WHERE id=1")
    assert index.verify() != []
