"""The contact sheet: everything inside, nothing taken for markup."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from binderclip.errors import InputError
from binderclip.search.sheet import sheet_html, write_sheet
from binderclip.search.types import Hit, Row

from .helpers import paint


def hit(path: Path, chance: float | None = None, folded: tuple[str, ...] = ()) -> Hit:
    return Hit(Row(str(path), str(path).encode(), "c", 1, 1, 48, 32), 0.25, chance, folded)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_nothing_comes_from_elsewhere_and_nothing_is_markup(tmp_path: Path) -> None:
    evil = paint(tmp_path / "<img src=x onerror=alert(1)> \"q\" & 'a'.png", (255, 0, 0), size=(800, 400))
    page = sheet_html(
        "<script>alert(1)</script>", {"": [hit(evil, 0.9, ("/a", "/b"))], "<b>two": [hit(tmp_path / "gone.png")]}
    )
    tags = Tags()
    tags.feed(page)
    names = [tag for tag, _ in tags.tags]
    assert "script" not in names
    assert "b" in names
    assert names.count("img") == 1
    assert not any(key.startswith("on") for _, attrs in tags.tags for key in attrs)
    sources = [attrs["src"] for tag, attrs in tags.tags if tag == "img"]
    assert all(source is not None and source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r'href="file:[^"]*"', "", page))
    thumbnail = Image.open(io.BytesIO(base64.b64decode(str(sources[0]).split(",")[1])))
    assert thumbnail.size == (360, 180)
    assert "cannot be read" in page
    for text in ("90% sure", "+2 like it", "prefers-color-scheme"):
        assert text in page


def test_writing(tmp_path: Path) -> None:
    out = write_sheet(tmp_path / "s.html", "red", [hit(paint(tmp_path / "a.png", (255, 0, 0)))])
    assert out.read_text("utf-8").startswith("<!doctype html>")
    with pytest.raises(InputError, match="cannot be written"):
        write_sheet(tmp_path / "none" / "s.html", "red", [])
