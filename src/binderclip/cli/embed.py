"""`binderclip embed`: vectors of pictures as .npy files, in clip-retrieval's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from binderclip.cli.console import emit_json, note, warn
from binderclip.cli.results import DB, ENGINE, JSON, ProgressLine, files, open_index
from binderclip.errors import InputError

__all__ = ["EPILOG", "embed"]

EPILOG = """Examples:

binderclip embed ~/Pictures -o pictures.emb

binderclip embed --from-index -o pictures.emb"""


def embed(
    paths: Annotated[list[Path] | None, typer.Argument(metavar="PATH...", help="Folders and files.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder to write; goes on where it was.")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="NAME", envvar="BINDERCLIP_MODEL", help="Model.")
    ] = "pocket",
    engine: ENGINE = None,
    from_index: Annotated[
        bool, typer.Option("--from-index", help="Take what the index holds; no file is read.")
    ] = False,
    ignore: Annotated[
        list[str] | None, typer.Option("--ignore", metavar="PATTERN", help="Leave out. Repeatable.")
    ] = None,
    include_hidden: Annotated[
        bool, typer.Option("--include-hidden", help="Take names that begin with a dot too.")
    ] = False,
    part: Annotated[int, typer.Option("--part", min=1, help="Rows of a part; a stop loses at most one.")] = 4096,
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help="Metadata as JSON lines; Parquet by default where pyarrow is.")
    ] = False,
    as_json: JSON = False,
    db: DB = None,
) -> int:
    """Write vectors as img_emb/img_emb_0.npy with metadata/metadata_0.parquet, the layout of clip-retrieval."""
    from binderclip.search.interop import embed_files, export_index

    if out is None:
        raise InputError("name a folder to write, as in: binderclip embed ~/Pictures -o pictures.emb")
    if from_index:
        with open_index(db) as index:
            rows, vectors = index.vectors()
            count = export_index(rows, vectors, index.encoder, out)
        emit_json({"out": str(out), "written": count}) if as_json else note(f"{count:,} vectors written to {out}")
        return 0
    if not paths:
        raise InputError("name pictures or folders, as in: binderclip embed ~/Pictures -o pictures.emb")
    from binderclip.data.media import IMAGE_SUFFIXES, OPTIONAL_SUFFIXES
    from binderclip.search.base import load_encoder
    from binderclip.search.scan import scan

    found = scan(paths, IMAGE_SUFFIXES, OPTIONAL_SUFFIXES, ignore=ignore or (), include_hidden=include_hidden)
    if not found.roots:
        raise InputError(f"no such file or folder: {', '.join(str(path) for path in paths)}")
    for extra, count in found.needs.items():
        warn(f"{files(count)} left out, readable with the extra '{extra}': pip install 'binderclip[{extra}]'")
    line = ProgressLine()
    try:
        encoder = load_encoder(model, engine)
        done = embed_files(
            found.files, encoder, out, part=part, parquet=not jsonl, on_bad=line.bad, on_progress=line.show
        )
    finally:
        line.end()
    if as_json:
        bad = [{"path": path, "reason": reason} for path, reason in done.bad]
        emit_json({"out": str(out), "written": done.written, "kept": done.kept, "parts": done.parts, "bad": bad})
    note(f"{done.written:,} vectors written to {out}, {done.kept:,} were there, {len(done.bad):,} could not be read")
    return 0
