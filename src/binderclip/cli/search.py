"""`binderclip search`: the pictures and moments of videos that a text, a picture or a mix of both describes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from binderclip.cli.console import note
from binderclip.cli.results import DB, ENGINE, JSON, MODEL, PATHS_ONLY, PRINT0, open_index, show_hits, tell_unencoded

__all__ = ["EPILOG", "search"]

EPILOG = """Examples:

binderclip search a red bicycle in the rain

binderclip search ./horse.jpg + stripes - "tall grass"

binderclip search 2:cat + sofa --where "path~holiday and date>=2024-01 and size>1MB"

binderclip search a goal is scored --moments --where "type=mp4" --json

binderclip search sunset -f | xargs -d '\\n' cp -t best/"""


def search(
    query: Annotated[
        list[str] | None,
        typer.Argument(metavar="QUERY...", help="A text or a picture's path; + and - join more, 2:cat weighs one."),
    ] = None,
    plus: Annotated[
        list[str] | None, typer.Option("--plus", "--add", metavar="TEXT|PATH", help="Towards this too.")
    ] = None,
    minus: Annotated[list[str] | None, typer.Option("--not", metavar="TEXT|PATH", help="Away from this.")] = None,
    top: Annotated[int, typer.Option("--top", "-n", "-k", min=1, help="How many hits.")] = 10,
    where: Annotated[
        str | None,
        typer.Option("--where", metavar="FILTER", help="As in 'path~holiday and date>=2024-01 and size>1MB'."),
    ] = None,
    min_score: Annotated[
        str | None,
        typer.Option("--min-score", metavar="NUMBER|auto", help="Least cosine; auto: least probability of one half."),
    ] = None,
    fold: Annotated[float, typer.Option("--fold", min=-1.0, help="Cosine from which pictures count as one.")] = 0.98,
    moments: Annotated[
        bool, typer.Option("--moments", help="List every good frame of a video, not its best alone.")
    ] = False,
    no_fold: Annotated[bool, typer.Option("--no-fold", help="List near-duplicates too.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a contact sheet with thumbnails as well.")
    ] = None,
    paths_only: PATHS_ONLY = False,
    print0: PRINT0 = False,
    as_json: JSON = False,
    db: DB = None,
    model: MODEL = None,
    engine: ENGINE = None,
) -> int:
    """Find pictures, and moments of videos, by what they show. Offline; the index is made by `binderclip index PATH`."""
    from binderclip.search.query import parse_query

    terms = parse_query(query or [], plus=plus or (), minus=minus or ())
    title = " ".join([*(query or []), *(f"+ {text}" for text in plus or []), *(f"- {text}" for text in minus or [])])
    with open_index(db, model, engine) as index:
        least = read_min_score(min_score)
        hits = index.search(terms, top, where=where, min_score=least, fold=None if no_fold else fold, moments=moments)
        tell_unencoded(index)
    show_hits(hits, title=title, as_json=as_json, paths_only=paths_only, print0=print0)
    if html is not None:
        from binderclip.search.sheet import write_sheet

        write_sheet(html, title, hits)
        note(f"contact sheet: {html.absolute()}")
    if not hits:
        note("nothing matches")
        return 1
    return 0


def read_min_score(text: str | None) -> float | str | None:
    """`--min-score`: a number, `auto`, or nothing.

    Raises:
        InputError: it is neither.
    """
    from binderclip.errors import InputError

    if text is None or text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--min-score takes a number or auto, not {text!r}") from None
