"""What the search verbs share: the options that name an index, and how hits are written."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from binderclip.cli.console import console, emit_json, err, note, warn

if TYPE_CHECKING:
    from binderclip.search.index import LocalIndex
    from binderclip.search.indexer import Progress
    from binderclip.search.types import Hit

__all__ = [
    "DB",
    "ENGINE",
    "JSON",
    "MODEL",
    "PATHS_ONLY",
    "PRINT0",
    "ProgressLine",
    "default_db",
    "emit_paths",
    "files",
    "open_index",
    "printable",
    "show_hits",
    "tell_unencoded",
]

DB = Annotated[
    Path | None,
    typer.Option(
        "--db", metavar="DIR", envvar="BINDERCLIP_DB", help="Folder of the index; a per-user place by default."
    ),
]
MODEL = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="NAME", envvar="BINDERCLIP_MODEL", help="Model; the index's own by default."),
]
ENGINE = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="onnx|openvino|torch",
        envvar="BINDERCLIP_ENGINE",
        help="What runs the model; by default as `binderclip tune` found.",
    ),
]
JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PATHS_ONLY = Annotated[
    bool, typer.Option("-f", "-q", "--filepaths", "--quiet", help="Print paths only, one a line, for xargs.")
]
PRINT0 = Annotated[bool, typer.Option("-0", "--print0", help="Print paths only, each ended by a zero byte (xargs -0).")]


def default_db() -> Path:
    """Where the index is when nobody says: a folder of the user's own."""
    import platformdirs

    return Path(platformdirs.user_data_dir("binderclip", appauthor=False)) / "index"


def open_index(db: Path | None, model: str | None = None, engine: str | None = None) -> LocalIndex:
    """The index of `--db`, or of the per-user place."""
    from binderclip.search.index import LocalIndex

    return LocalIndex(db or default_db(), model, engine=engine)


def printable(text: str) -> str:
    """A path for the terminal: control characters become replacement characters."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def files(count: int) -> str:
    """A count of files in words."""
    return f"{count:,} file{'' if count == 1 else 's'}"


class ProgressLine:
    """Progress on stderr: a line that is rewritten on a terminal, a line now and then elsewhere."""

    def __init__(self, *, silent: bool = False) -> None:
        self._last = 0.0 if not silent else time.monotonic()
        self._status = err.status("looking for pictures") if err.is_terminal and not silent else None
        if self._status:
            self._status.start()

    def show(self, now: Progress) -> None:
        """Says how far the work is."""
        text = f"{now.done:,} of {now.total:,} files, {now.rate:.0f}/s"
        if now.within:
            text += f", {printable(now.within)}"
        if now.limited_by:
            text += f", limited by {now.limited_by}"
        if self._status:
            self._status.update(text)
        elif time.monotonic() - self._last > 10:
            note(text)
        else:
            return
        self._last = time.monotonic()

    def bad(self, path: str, reason: str) -> None:
        """Tells of one file that could not be read."""
        warn(f"{printable(path)}: {reason}")

    def end(self) -> None:
        """Takes the line away."""
        if self._status:
            self._status.stop()


def emit_paths(paths: Iterable[bytes], *, print0: bool = False) -> None:
    """Prints paths as the bytes they are, so that every name survives a pipe."""
    end = b"\0" if print0 else os.linesep.encode()
    sys.stdout.flush()
    out = getattr(sys.stdout, "buffer", None)
    for path in paths:
        if out is None:
            sys.stdout.write(os.fsdecode(path + end))
        else:
            out.write(path + end)
    (out or sys.stdout).flush()


def show_hits(
    hits: Sequence[Hit], *, title: str, as_json: bool = False, paths_only: bool = False, print0: bool = False
) -> None:
    """Prints hits: a table, one JSON list, or paths."""
    if as_json:
        emit_json([hit.as_json() for hit in hits])
    elif paths_only or print0:
        emit_paths(
            dict.fromkeys(hit.row.raw_path for hit in hits), print0=print0
        )  # a video once, of however many moments
    elif hits:
        # Into a pipe a path stays on its line, however long.
        console.print(_table(hits, title), width=None if console.is_terminal else 10_000)


def _table(hits: Sequence[Hit], title: str) -> Table:
    chances = any(hit.probability is not None for hit in hits)
    table = Table(title=Text(printable(title)), title_justify="left", box=None, pad_edge=False)
    table.add_column("#", justify="right", style="dim")
    table.add_column("score", justify="right")
    if chances:
        table.add_column("probability", justify="right")
    table.add_column("path", overflow="fold")
    for rank, hit in enumerate(hits, 1):
        cells: list[Any] = [str(rank), f"{hit.score:.3f}"]
        if chances:
            cells.append("" if hit.probability is None else f"{hit.probability:.0%}")
        path = Text(printable(hit.path))
        if hit.row.time is not None:
            path.append(f" @ {hit.row.moment}", style="bold")
        if hit.folded:
            path.append(f"  (+{len(hit.folded)} like it)", style="dim")
        table.add_row(*cells, path)
    return table


def tell_unencoded(index: LocalIndex) -> None:
    """Says in one line that some files wait for vectors of the model in use."""
    waiting, roots = index.unencoded()
    if waiting:
        warn(
            f"{files(waiting)} without a vector of {index.model.name} yet: {shlex.join(['binderclip', 'index', *roots])}"
        )
