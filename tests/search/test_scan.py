"""The walk, on folders as people have them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from binderclip.search.scan import Scan, scan

SUFFIXES = frozenset({".jpg", ".png"})


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(found: Scan, root: Path) -> list[str]:
    return [os.fsdecode(file.path)[len(str(root)) + 1 :] for file in found.files]


def test_order_suffixes_and_hidden_names(tmp_path: Path) -> None:
    touch(
        *(tmp_path / name for name in ("b.jpg", "a/c.PNG", "a.txt", ".hid.jpg", ".dir/x.jpg", "B.jpg", "@eaDir/t.jpg"))
    )
    assert names(scan([tmp_path], SUFFIXES), tmp_path) == ["B.jpg", "a/c.PNG", "b.jpg"]
    shown = names(scan([tmp_path], SUFFIXES, include_hidden=True), tmp_path)
    assert shown == [".dir/x.jpg", ".hid.jpg", "B.jpg", "a/c.PNG", "b.jpg"]
    assert names(scan([tmp_path / ".dir"], SUFFIXES), tmp_path) == [".dir/x.jpg"]


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("*.png", ["a/x.jpg", "a/thumbs/z.jpg", "x.jpg"]),
        ("thumbs/", ["a/x.jpg", "a/y.png", "x.jpg"]),
        ("thumbs", ["a/x.jpg", "a/y.png", "x.jpg"]),
        ("a/x.jpg", ["a/thumbs/z.jpg", "a/y.png", "x.jpg"]),
        ("/x.jpg", ["a/thumbs/z.jpg", "a/x.jpg", "a/y.png"]),
        ("a/*", ["x.jpg"]),
        ("x.jpg/", ["a/thumbs/z.jpg", "a/x.jpg", "a/y.png", "x.jpg"]),
    ],
)
def test_ignore_patterns(tmp_path: Path, pattern: str, left: list[str]) -> None:
    touch(*(tmp_path / name for name in ("x.jpg", "a/x.jpg", "a/y.png", "a/thumbs/z.jpg")))
    assert sorted(names(scan([tmp_path], SUFFIXES, ignore=[pattern]), tmp_path)) == sorted(left)


def test_loops_of_links_end_and_links_to_nowhere_are_passed(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "x.jpg")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a" / "self")
    (tmp_path / "lost.jpg").symlink_to(tmp_path / "nothing.jpg")
    (tmp_path / "z.jpg").symlink_to(tmp_path / "a" / "x.jpg")
    assert names(scan([tmp_path], SUFFIXES), tmp_path) == ["a/x.jpg", "z.jpg"]


def test_a_file_named_twice_is_found_once(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "x.jpg")
    assert names(scan([tmp_path, tmp_path / "a", tmp_path / "a" / "x.jpg"], SUFFIXES), tmp_path) == ["a/x.jpg"]


def test_a_named_file_needs_no_suffix_and_an_absent_path_is_told(tmp_path: Path) -> None:
    touch(tmp_path / "picture")
    found = scan([tmp_path / "picture", tmp_path / "no"], SUFFIXES)
    assert names(found, tmp_path) == ["picture"]
    assert found.absent == [os.fsencode(tmp_path / "no")]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/\xff\xe9.jpg"
    with open(raw, "wb") as file:
        file.write(b"x")
    assert [file.path for file in scan([tmp_path], SUFFIXES).files] == [raw]


def test_an_unreadable_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "a" / "x.jpg", tmp_path / "b.jpg")
    real = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("/a"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr("os.scandir", refuse)  # chmod would not stop root
    found = scan([tmp_path], SUFFIXES)
    assert names(found, tmp_path) == ["b.jpg"]
    assert found.unreadable == {os.fsencode(tmp_path / "a"): "Permission denied"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert scan([tmp_path, tmp_path / "pipe.jpg"], SUFFIXES).files == []


def test_what_needs_an_extra_is_counted(tmp_path: Path) -> None:
    touch(tmp_path / "x.heic", tmp_path / "y.heic", tmp_path / "z.raw", tmp_path / "a.jpg")
    found = scan([tmp_path], SUFFIXES, {".heic": "no_such_module_a", ".raw": "json"})
    assert names(found, tmp_path) == ["a.jpg", "z.raw"]
    assert found.needs == {"no_such_module_a": 2}


def test_a_very_deep_folder(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d"] * 600)
    touch(deep / "x.jpg")
    assert len(scan([tmp_path], SUFFIXES).files) == 1
