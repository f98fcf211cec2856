"""`binderclip similar`: the pictures nearest to one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from binderclip.cli.console import note
from binderclip.cli.results import DB, JSON, MODEL, PATHS_ONLY, PRINT0, open_index, show_hits, tell_unencoded
from binderclip.cli.search import read_min_score
from binderclip.errors import InputError

__all__ = ["EPILOG", "similar"]

EPILOG = """Examples:

binderclip similar ~/Pictures/cat.jpg

binderclip similar new.png --top 3 --json"""


def similar(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A picture, of the index or not.")],
    top: Annotated[int, typer.Option("--top", "-n", "-k", min=1, help="How many hits.")] = 10,
    where: Annotated[str | None, typer.Option("--where", metavar="FILTER", help="As in 'path~holiday'.")] = None,
    min_score: Annotated[str | None, typer.Option("--min-score", metavar="NUMBER", help="Least cosine.")] = None,
    fold: Annotated[float, typer.Option("--fold", min=-1.0, help="Cosine from which pictures count as one.")] = 0.98,
    no_fold: Annotated[bool, typer.Option("--no-fold", help="List near-duplicates too.")] = False,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a contact sheet as well.")] = None,
    paths_only: PATHS_ONLY = False,
    print0: PRINT0 = False,
    as_json: JSON = False,
    db: DB = None,
    model: MODEL = None,
) -> int:
    """Find the pictures nearest to a picture. The picture itself is not listed."""
    least = read_min_score(min_score)
    if least == "auto":
        raise InputError("--min-score auto is for texts: give a number")
    with open_index(db, model) as index:
        held = index.vector_of(path)
        if held is None and not path.is_file():
            raise InputError(f"{path} is neither in the index nor on the disk")
        vector = held if held is not None else index.encoder.encode_image([path])[0]
        hits = index.search_vector(
            vector, top, where=where, min_score=least, fold=None if no_fold else fold, leave_out=path
        )
        tell_unencoded(index)
    show_hits(hits, title=f"like {path.name}", as_json=as_json, paths_only=paths_only, print0=print0)
    if html is not None:
        from binderclip.search.sheet import write_sheet

        note(f"contact sheet: {write_sheet(html, f'like {path.name}', hits)}")
    if not hits:
        note("nothing matches")
        return 1
    return 0
