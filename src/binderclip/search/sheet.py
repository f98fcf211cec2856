"""A contact sheet: one HTML file with the thumbnails inside, for a browser, a mail or a colleague."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Sequence
from pathlib import Path

from binderclip.data.files import write_whole
from binderclip.data.media import open_image
from binderclip.data.video import frame_at
from binderclip.errors import BinderclipError, InputError
from binderclip.search.types import Hit

__all__ = ["sheet_html", "write_sheet"]

_SIDE = 360  # pixels of a thumbnail's long side: sharp on a screen of double density

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # the browser fetches nothing

_STYLE = """
:root { color-scheme: light dark; --ground: #f6f5f2; --card: #fff; --ink: #1d1c1a; --faint: #74706a; --mark: #b4541f; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #161513; --card: #211f1c; --ink: #eeebe5; --faint: #9b958b; --mark: #f0935a; }
}
* { box-sizing: border-box; }
body { margin: 0; padding: 2.5rem clamp(1rem, 4vw, 4rem); background: var(--ground); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { margin: 0 0 .2rem; font-size: 1.7rem; font-weight: 650; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { margin: 2.4rem 0 .9rem; font-size: 1.15rem; font-weight: 600; overflow-wrap: anywhere; }
p { margin: 0 0 1.6rem; color: var(--faint); }
.sheet { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); padding: 0; margin: 0;
  list-style: none; }
.sheet li { background: var(--card); border-radius: 10px; overflow: hidden; box-shadow: 0 1px 3px #0002; }
.sheet a { color: inherit; text-decoration: none; display: block; }
.sheet a:focus-visible { outline: 2px solid var(--mark); outline-offset: -2px; }
.thumb { position: relative; display: grid; place-items: center; aspect-ratio: 4 / 3; overflow: hidden; background: #8881; }
.thumb img { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; }
.lost { color: var(--faint); font-size: .85rem; padding: 1rem; text-align: center; }
.text { padding: .6rem .8rem .75rem; }
.name { font-weight: 550; overflow: hidden; overflow-wrap: anywhere; display: -webkit-box; -webkit-line-clamp: 2;
  -webkit-box-orient: vertical; }
.facts { color: var(--faint); font-size: .82rem; font-variant-numeric: tabular-nums; }
.facts b { color: var(--mark); font-weight: 600; }
"""


def write_sheet(path: str | os.PathLike[str], title: str, hits: Sequence[Hit]) -> Path:
    """Writes the contact sheet of one search; returns where it is.

    Raises:
        InputError: the file cannot be written.
    """
    return write_sheets(path, title, {"": hits})


def write_sheets(path: str | os.PathLike[str], title: str, groups: dict[str, Sequence[Hit]]) -> Path:
    """Writes a contact sheet with a heading for each group of hits; returns where it is.

    Raises:
        InputError: the file cannot be written.
    """
    out = Path(path)
    try:
        write_whole(out, sheet_html(title, groups).encode("utf-8", "replace"))
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror or error}): choose another file") from None
    return out.absolute()


def sheet_html(title: str, groups: dict[str, Sequence[Hit]]) -> str:
    """The page: nothing in it comes from anywhere else, and no text of the user's is taken for markup."""
    count = sum(len(hits) for hits in groups.values())
    parts = []
    for heading, hits in groups.items():
        parts.append(f"<h2>{_safe(heading)}</h2>" if heading else "")
        parts.append('<ol class="sheet">' + "".join(_card(rank, hit) for rank, hit in enumerate(hits, 1)) + "</ol>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{_safe(title)}</title><style>{_STYLE}</style></head><body><main><h1>{_safe(title)}</h1>"
        f"<p>{count} {'picture' if count == 1 else 'pictures'}, best first</p>{''.join(parts)}</main></body></html>\n"
    )


def _card(rank: int, hit: Hit) -> str:
    name = _safe(Path(hit.path).name)
    chance = "" if hit.probability is None else f" · {hit.probability:.0%} sure"
    more = f" · +{len(hit.folded)} like it" if hit.folded else ""
    size = "" if hit.row.time is None else f" · at {hit.row.moment}"
    size += f" · {hit.row.width}&nbsp;×&nbsp;{hit.row.height}"
    try:
        link = Path(os.fsdecode(hit.row.raw_path)).as_uri()
    except ValueError:
        link = "#"
    return (
        f'<li><a href="{_safe(link)}" title="{_safe(hit.path)}"><div class="thumb">{_thumbnail(hit, name)}</div>'
        f'<div class="text"><div class="name">{rank}. {name}</div>'
        f'<div class="facts"><b>{hit.score:.3f}</b>{chance}{size}{more}</div></div></a></li>'
    )


def _thumbnail(hit: Hit, name: str) -> str:
    try:
        path = os.fsdecode(hit.row.raw_path)
        image = open_image(path, min_side=_SIDE).image if hit.row.time is None else frame_at(path, hit.row.time)
    except BinderclipError as error:
        return f'<div class="lost">{_safe(str(error))}</div>'
    image.thumbnail((_SIDE, _SIDE))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=82)
    data = base64.b64encode(out.getvalue()).decode()
    return f'<img alt="{name}" loading="lazy" src="data:image/jpeg;base64,{data}">'


def _safe(text: str) -> str:
    return html.escape("".join(letter if letter.isprintable() else "\ufffd" for letter in text))
