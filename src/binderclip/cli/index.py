"""`binderclip index`: brings the index up to date with folders; `index info | verify | prune | rm` look after it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from binderclip.cli.console import console, emit_json, note, warn
from binderclip.cli.results import DB, ENGINE, JSON, MODEL, ProgressLine, files, open_index, printable
from binderclip.errors import InputError

if TYPE_CHECKING:
    from binderclip.search.index import LocalIndex
    from binderclip.search.indexer import Report

__all__ = ["index_app"]

EPILOG = """Examples:

binderclip index ~/Pictures

binderclip index ~/Pictures /mnt/camera --ignore "*.png" --ignore thumbs/ --db ./photos.index

binderclip index ~/Videos --every 5

binderclip index info

Also: binderclip index info | verify | prune | rm (each with --help). A folder of such a name is ./info."""


class DefaultGroup(TyperGroup):
    """A group whose first word may be left out: `index PATH` is `index add PATH`."""

    default = "add"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts the default verb in front of anything that is no verb of the group."""
        if args and args[0] not in self.commands:
            args = [self.default, *args]
        return super().parse_args(ctx, args)


index_app = typer.Typer(
    cls=DefaultGroup,
    no_args_is_help=True,
    help="Index pictures and videos, so that they can be searched. What has not changed is not read again.",
    epilog=EPILOG,
)


@index_app.command("add", epilog=EPILOG)
def add(
    paths: Annotated[list[Path] | None, typer.Argument(metavar="PATH...", help="Folders and files.")] = None,
    db: DB = None,
    model: MODEL = None,
    engine: ENGINE = None,
    ignore: Annotated[
        list[str] | None, typer.Option("--ignore", metavar="PATTERN", help="Leave out, as in a .gitignore. Repeatable.")
    ] = None,
    include_hidden: Annotated[
        bool, typer.Option("--include-hidden", help="Take names that begin with a dot too.")
    ] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Read files again that could not be read before.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Stay, and index what changes.")] = False,
    interval: Annotated[float, typer.Option("--interval", min=0.1, help="Seconds between looks, with --watch.")] = 5.0,
    wait: Annotated[float, typer.Option("--wait", min=0.0, help="Seconds to wait for another writer.")] = 0.0,
    every: Annotated[
        float, typer.Option("--every", metavar="SECONDS", help="Between the frames that are taken of a video.")
    ] = 1.0,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Pictures encoded and committed together.")] = 32,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="That decode; one per core by default.")
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="lance URI", help="Then copy the index: 'lance:URI'.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--from", metavar="lance URI", help="First take rows from 'lance:URI'.")
    ] = None,
    as_json: JSON = False,
) -> int:
    """Index folders and files (the word `add` may be left out)."""
    with open_index(db, model, engine) as index:
        note(f"index: {index.folder}")
        if source:
            note(f"{files(_table(source).copy_into(index, wait=wait))} from {source}")
        if not paths and not (to or source):
            raise InputError("name what to index, as in: binderclip index ~/Pictures")
        looks = 0
        while paths:
            _run(
                index, paths, as_json=as_json, again=looks > 0,
                ignore=ignore or (), include_hidden=include_hidden, retry=retry and not looks, dry_run=dry_run, wait=wait,
                batch=batch, threads=threads, every=every,
            )  # fmt: skip
            if not watch or dry_run:
                break
            looks += 1
            _pause(paths, interval)
        if to:
            note(f"{files(_table(to).fill_from(index))} to {to}")
    return 0


def _table(text: str) -> Any:
    if not text.startswith("lance:"):
        raise InputError(f"{text!r}: write lance:URI, as in lance:./photos.lance or lance:s3://bucket/photos")
    from binderclip.search.lance import LanceIndex

    return LanceIndex(text.removeprefix("lance:"))


def _run(index: LocalIndex, paths: list[Path], *, as_json: bool, again: bool, **options: Any) -> None:
    """One look; one that comes again and finds nothing new is silent."""
    line = ProgressLine(silent=again)
    try:
        report = index.add(
            paths, on_bad=line.bad, on_progress=line.show, on_wait=lambda who: note(f"waiting for {who}"), **options
        )
    finally:
        line.end()
    if again and not (report.encoded or report.same_content or report.back or report.missing or report.bad):
        return
    tell_report(report, dry_run=options["dry_run"])
    if as_json:
        emit_json(report_json(report))


def report_json(report: Report) -> dict[str, Any]:
    """What a run did, as plain values."""
    from dataclasses import asdict

    pairs = ("bad", "known_bad", "unreadable", "damaged")
    plain = asdict(report)
    plain.update({key: [{"path": path, "reason": reason} for path, reason in plain[key]] for key in pairs})
    return {"indexed": report.indexed, **plain}


def tell_report(report: Report, *, dry_run: bool = False) -> None:
    """Says on stderr what a run did, problems counted at the end."""
    for path, reason in report.unreadable:
        warn(f"{printable(path)}: folder left out ({reason})")
    for path, reason in report.damaged:
        warn(f"{printable(path)}: {reason}")
    for path in report.absent:
        warn(f"{printable(path)}: not there")
    for path in report.kept:
        warn(f"{printable(path)}: empty or not there; its files stay in the index (a disk that is not mounted?)")
    for extra, count in report.needs.items():
        warn(f"{files(count)} left out, readable with the extra '{extra}': pip install 'binderclip[{extra}]'")
    parts = [
        f"{report.encoded:,} {'to encode' if dry_run else 'encoded'}",
        f"{report.unchanged + report.back:,} unchanged",
    ]
    parts += [f"{report.same_content:,} moved or of known content"] if report.same_content else []
    parts += [f"{report.frames:,} frames of videos"] if report.frames else []
    parts += [f"{report.missing:,} gone"] if report.missing else []
    bad = len(report.bad) + len(report.known_bad)
    if bad:
        known = f" ({len(report.known_bad):,} as before; --retry reads them again)" if report.known_bad else ""
        parts.append(f"{bad:,} could not be read{known}")
    text = f"{files(report.found)}: " + ", ".join(parts)
    if report.encoded and not dry_run:
        text += f"; {report.seconds:.1f} s, {report.rate:.0f} files/s, limited by {report.limited_by}"
    note(text)


def _pause(paths: list[Path], interval: float) -> None:
    """Waits for the next look: for a change where `watchfiles` is installed, else for the interval."""
    try:
        from watchfiles import watch
    except ImportError:
        time.sleep(interval)
        return
    for _ in watch(
        *[path for path in paths if path.exists()], step=200, rust_timeout=int(interval * 1000), yield_on_timeout=True
    ):
        return


@index_app.command("info")
def info(db: DB = None, as_json: JSON = False) -> int:
    """Say what the index holds and where it is."""
    with open_index(db) as index:
        facts = index.info()
    if as_json:
        emit_json(facts)
        return 0
    console.print(f"{facts['db']}: {files(facts['files'])}, {facts['bytes'] / 1e6:.1f} MB", markup=False)
    console.print(
        f"{facts['missing']:,} missing, {facts['problems']:,} could not be read, {facts['contents']:,} contents",
        markup=False,
    )
    for model in facts["models"]:
        used = " (in use)" if model["in_use"] else ""
        frames = f", {model['frames']:,} of frames of videos" if model["frames"] else ""
        half = f", {model['unfinished']:,} of the videos not to the end" if model["unfinished"] else ""
        text = f"model {model['name']} {model['fingerprint']}: {model['vectors']:,} vectors of {model['dim']}{used}"
        text += frames + half
        console.print(text, markup=False)
    for root in facts["roots"]:
        console.print(f"root {printable(root)}", markup=False)
    return 0


@index_app.command("verify")
def verify(
    db: DB = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read every file again and compare its content.")] = False,
    as_json: JSON = False,
) -> int:
    """Check the index against itself (and, with --deep, against the files). Exit code 1: something is wrong."""
    with open_index(db) as index:
        found = index.verify(deep=deep)
    if as_json:
        emit_json(found)
    else:
        for line in found:
            console.print(printable(line), markup=False)
    note(f"{len(found)} problems" if found else "the index is whole")
    return 1 if found else 0


@index_app.command("prune")
def prune(
    db: DB = None,
    models: Annotated[bool, typer.Option("--models", help="Forget the vectors of models that are not in use.")] = False,
    wait: Annotated[float, typer.Option("--wait", min=0.0, help="Seconds to wait for another writer.")] = 0.0,
    as_json: JSON = False,
) -> int:
    """Forget files that are gone, and vectors that nothing needs. No file of yours is touched."""
    with open_index(db) as index:
        removed = index.prune(models=models, wait=wait)
    emit_json(removed) if as_json else note(f"forgot {files(removed['files'])} and {removed['vectors']:,} vectors")
    return 0


@index_app.command("rm")
def rm(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files and folders to take out of the index.")],
    db: DB = None,
    wait: Annotated[float, typer.Option("--wait", min=0.0, help="Seconds to wait for another writer.")] = 0.0,
    as_json: JSON = False,
) -> int:
    """Take files out of the index. No file of yours is touched."""
    with open_index(db) as index:
        removed = index.remove(paths, wait=wait)
    emit_json({"removed": removed}) if as_json else note(f"{files(removed)} taken out of the index")
    return 0 if removed else 1
