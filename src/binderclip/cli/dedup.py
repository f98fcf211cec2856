"""`binderclip dedup`: groups of pictures that are the same or almost."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from binderclip.cli.console import console, emit_json, note
from binderclip.cli.results import DB, JSON, MODEL, PATHS_ONLY, PRINT0, emit_paths, open_index, printable

__all__ = ["EPILOG", "dedup"]

EPILOG = """Examples:

binderclip dedup --threshold 0.95

binderclip dedup --exact -f | xargs -d '\\n' ls -l"""


def dedup(
    threshold: Annotated[
        float, typer.Option("--threshold", "-t", help="Cosine from which pictures are the same.")
    ] = 0.98,
    exact: Annotated[bool, typer.Option("--exact", help="Only files with the same bytes.")] = False,
    where: Annotated[str | None, typer.Option("--where", metavar="FILTER", help="As in 'path~holiday'.")] = None,
    paths_only: PATHS_ONLY = False,
    print0: PRINT0 = False,
    as_json: JSON = False,
    db: DB = None,
    model: MODEL = None,
) -> int:
    """Find duplicates in the index, and say which of each group to keep. Nothing is deleted.

    With -f the paths of all but the one to keep are printed. Exit code 1: there are no duplicates.
    """
    import numpy as np

    from binderclip.search.dedup import find_duplicates

    with open_index(db, model) as index:
        rows, vectors = index.vectors()
        if where:
            wanted = {row.raw_path for row in index.rows(where)}
            inside = [i for i, row in enumerate(rows) if row.raw_path in wanted]
            rows, vectors = [rows[i] for i in inside], vectors[np.array(inside, dtype=np.intp)]
    groups = find_duplicates(rows, vectors, None if exact else threshold)
    others = [row for group in groups for row in group.others]
    if as_json:
        emit_json([group.as_json() for group in groups])
    elif paths_only or print0:
        emit_paths((row.raw_path for row in others), print0=print0)
    else:
        for group in groups:
            kind = "same bytes" if group.exact else f"cosine {group.score:.3f}"
            console.print(
                Text(f"keep  {printable(group.keep.path)}  ({group.keep.width} x {group.keep.height}, {kind})")
            )
            for row in group.others:
                console.print(Text(f"      {printable(row.path)}  ({row.width} x {row.height})"))
    note(f"{len(groups):,} groups, {len(others):,} files that could go, {sum(row.size for row in others) / 1e6:.1f} MB")
    return 0 if groups else 1
