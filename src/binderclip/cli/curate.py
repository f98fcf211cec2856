"""`binderclip curate`: choose among pairs before training, and say of each why."""

from __future__ import annotations

import functools
import inspect
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from binderclip.cli.console import console, emit_json, err, note
from binderclip.cli.results import JSON
from binderclip.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from binderclip.curate.run import Write

__all__ = ["curate_app"]

EPILOG = """Examples:

binderclip curate filter pairs.csv --method metaclip --set metadata=concepts.txt --set t=20000 --out kept

binderclip curate filter './shards/{00000..00123}.tar' --method metaclip --set metadata=concepts.txt --workers 4 --out kept

binderclip curate metadata pairs.csv --wordnet wordnet.parquet --out concepts.txt"""

curate_app = typer.Typer(
    no_args_is_help=True,
    help="Choose among pairs before training: what is kept, with what weight, and why.",
    epilog=EPILOG,
)

PAIRS = Annotated[
    list[str], typer.Argument(metavar="PAIRS...", help="A table, a folder or shards of images and captions; several.")
]
_PASSES = {"scan": "reading", "judge": "judging", "write": "writing"}


@curate_app.command("filter", epilog=EPILOG)
def filter_pairs(
    pairs: PAIRS,
    method: Annotated[str, typer.Option("--method", "-m", metavar="NAME", help="See `methods list --room curate`.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of verdicts; a stopped run goes on.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting of the method. Repeatable.")
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", "-j", min=0, help="Processes; 0 works in this one. The result is the same.")
    ] = 0,
    write: Annotated[
        str,
        typer.Option(
            "--write", metavar="ids|list|tar", help="Kept ids alone, or the rows too: kept.jsonl, kept/*.tar."
        ),
    ] = "ids",
    as_json: JSON = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the kept ids only, one a line.")] = False,
) -> int:
    """Judge every pair: DIR gets a table of verdicts, kept.txt and summary.json. Exit code 1 when nothing is kept."""
    from binderclip.curate.run import curate
    from binderclip.data.pairs import Pairs

    if write not in ("ids", "list", "tar"):
        raise InputError(f"--write {write!r} is not understood: use ids, list or tar")
    make = _maker(method, settings or ())
    source = functools.partial(Pairs.open, pairs[0] if len(pairs) == 1 else pairs)
    with _Progress(silent=as_json or quiet) as progress:
        summary = curate(
            make,
            source,
            out,
            method=method,
            workers=workers,
            write=cast("Write", write),
            listener=progress.show,
        )
    if quiet:
        typer.echo((out / "kept.txt").read_text("utf-8", "replace"), nl=False)
    elif as_json:
        emit_json(summary | {"out": str(out)})
    else:
        _show(summary, out)
    return 0 if summary["kept"] or summary["added"] else 1


@curate_app.command("metadata")
def metadata(
    pairs: Annotated[
        list[str] | None, typer.Argument(metavar="[PAIRS...]", help="Pairs or .txt files to count words in.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The list, an entry a line.")] = Path(
        "concepts.txt"
    ),
    wordnet: Annotated[
        Path | None, typer.Option("--wordnet", metavar="FILE", help="WordNet's Parquet file: its words come first.")
    ] = None,
    min_count: Annotated[int, typer.Option(help="Least count of a word; the paper's, for a whole Wikipedia.")] = 100,
    min_pmi: Annotated[float, typer.Option(help="Least pointwise mutual information of two words, in bits.")] = 30.0,
    size: Annotated[int, typer.Option(min=1, help="Most entries.")] = 500_000,
    as_json: JSON = False,
) -> int:
    """Make the list of concepts for metaclip from WordNet, and from the words of your own captions or texts."""
    from binderclip.curate.metadata import build_metadata, count_words, wordnet_entries
    from binderclip.data.files import write_whole

    if not pairs and wordnet is None:
        raise InputError("name pairs or texts to count words in, or WordNet's file with --wordnet")
    if not out.resolve().parent.is_dir():
        raise InputError(f"{out.parent} is no folder: make it, or choose another --out")
    words, pmi = count_words(_texts(pairs or ()))
    known = wordnet_entries(wordnet) if wordnet else []
    entries = build_metadata(words, pmi, None, known, size, min_count=min_count, min_pmi=min_pmi)
    write_whole(out, "".join(f"{entry}\n" for entry in entries).encode("utf-8", "replace"))
    facts = {"entries": len(entries), "wordnet": len(known), "words_counted": words.total(), "out": str(out)}
    if as_json:
        emit_json(facts)
    else:
        note(f"written: {out}, {len(entries):,} entries")
    return 0


def _maker(method: str, settings: Sequence[str]) -> Any:
    """A picklable maker of the curator, tried once, so that a wrong setting is told before anything is read."""
    from binderclip.cards import cards, find, load_method

    card = find(method)
    if card.kind != "Curator":
        known = ", ".join(slug for slug, one in cards().items() if one.kind == "Curator")
        raise UnknownNameError(f"{card.slug} is no method that filters pairs: use one of {known}")
    cls = load_method(card.slug)
    given: dict[str, Any] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set {text!r} is not understood: write it as NAME=VALUE")
        given[name.strip().replace("-", "_")] = _value(value)
    options = list(inspect.signature(cls).parameters)
    unknown = [name for name in given if name not in options]
    if unknown:
        raise InputError(f"{card.slug} has no setting {unknown[0]!r}: it has {', '.join(options)}")
    make = functools.partial(cls, **given)
    try:
        make()
    except TypeError as error:
        raise InputError(f"a setting of {card.slug} is of the wrong kind: {error}") from None
    return make


def _value(text: str) -> Any:
    """JSON where it is JSON, a string otherwise."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _texts(sources: Sequence[str]) -> Any:
    from binderclip.data.pairs import Pairs

    for source in sources:
        if source.endswith(".txt"):
            try:
                with open(source, encoding="utf-8", errors="replace") as lines:
                    yield from lines
            except OSError as error:
                raise InputError(f"{source} cannot be read: {error.strerror}") from None
        else:
            for row in Pairs.open(source):
                yield from row.captions


def _show(summary: dict[str, Any], out: Path) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("reason", "rows", "kept", "share"):
        table.add_column(name, justify="left" if name == "reason" else "right")
    for reason, counts in sorted(summary["reasons"].items(), key=lambda item: -item[1]["rows"]):
        rows, kept = counts["rows"], counts["kept"]
        table.add_row(reason, f"{rows:,}", f"{kept:,}", f"{kept / max(rows, 1):.0%}")
    rows, kept = summary["rows"], summary["kept"]
    table.add_row("all", f"{rows:,}", f"{kept:,}", f"{kept / max(rows, 1):.0%}", style="bold")
    console.print(table)
    about = {name.replace("_", " "): value for name, value in summary["about"].items()}
    if about:
        console.print("   ".join(f"{name}: {value}" for name, value in about.items()), markup=False)
    for reason, count in summary["bad"].items():
        note(f"note: {count:,} rows could not be used: {reason}")
    if summary["added"]:
        console.print(f"{summary['added']:,} rows added: {out / 'added'}", markup=False)
    note(f"written: {out}")


class _Progress:
    """Pieces done, on stderr: a line that is rewritten on a terminal, a line now and then elsewhere."""

    def __init__(self, *, silent: bool = False) -> None:
        self._silent, self._last = silent, time.monotonic()
        self._status = err.status("opening") if err.is_terminal and not silent else None

    def __enter__(self) -> _Progress:
        if self._status:
            self._status.start()
        return self

    def __exit__(self, *problem: object) -> None:
        if self._status:
            self._status.stop()

    def show(self, name: str, done: int, total: int) -> None:
        """Says how far a pass is."""
        text = f"{_PASSES[name]}: {done:,} of {total:,} pieces"
        if self._status:
            self._status.update(text)
        elif not self._silent and time.monotonic() - self._last > 10:
            note(text)
            self._last = time.monotonic()
