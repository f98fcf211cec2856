"""`binderclip bench`: the methods of a room on equal terms, on your own data."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from binderclip.cli.console import console, emit_json, err, note
from binderclip.cli.results import JSON, printable
from binderclip.errors import InputError

if TYPE_CHECKING:
    from binderclip.evaluate.base import Report
    from binderclip.evaluate.bench import Result

__all__ = ["EPILOG", "bench"]

EPILOG = """Examples:

binderclip bench adapt --data ./photos --html bench.html

binderclip bench adapt --data ./photos --method gda --method tip_adapter --settings 4,16 --seeds 5 --out results

binderclip bench train --method contrastive --method flip --settings 10 --json"""


def bench(
    room: Annotated[
        str, typer.Argument(metavar="ROOM", help="adapt (few pictures of each class) or train (objectives).")
    ],
    data: Annotated[
        str, typer.Option("--data", "-d", metavar="PATH", help="Labelled pictures; generated scenes by default.")
    ] = "",
    method: Annotated[
        list[str] | None, typer.Option("--method", metavar="NAME", help="Only this method. Repeatable.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Model; of train: preset of the towers.")] = None,
    settings: Annotated[
        str | None,
        typer.Option("--settings", metavar="NUMBERS", help="Shots a class, or CPU seconds, with commas between."),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many; 0 is the first.")] = 3,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Keep results there; a stopped bench goes on.")
    ] = None,
    page: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page with the curves.")] = None,
    as_json: JSON = False,
) -> int:
    """Compare a room's methods on the same rows, seeds and machine, beside what their papers claim.

    The harness alone holds the labels that are judged by: each method answers in a process that never had them.
    """
    from binderclip.evaluate import bench as harness
    from binderclip.evaluate.bench.run import contestants, trial_of

    trial = trial_of(room)
    cards = contestants(room, method or ())
    given = {"model": model} if model else {}
    source = os.path.abspath(data) if data and os.path.exists(data) else data
    with _telling() as tell:
        exams = trial.open_trial(
            source or trial.SOURCE,
            seeds=range(seeds),
            settings=_numbers(settings) or trial.SETTINGS,
            on_progress=lambda done, total: tell(f"encoding {done:,} of {total:,} pictures"),
            **given,
        )
        total, done = len(exams) * len(cards), []

        def listener(result: Result) -> None:
            done.append(result)
            tell(f"{result.method}, {result.setting}, seed {result.seed}: {len(done)} of {total}")

        results = harness.bench(room, exams, cards, folder=out, listener=listener)
    report = harness.summary(room, model or "", Path(data).name if data else trial.SOURCE, results)
    _write(report, out, page)
    if as_json:
        emit_json(report.to_json())
    else:
        _show(report, results)
    return 0 if any(result.measures for result in results) else 1


def _numbers(text: str | None) -> list[float]:
    try:
        found = [float(part) for part in (text or "").split(",") if part.strip()]
    except ValueError:
        found = [0.0]
    if any(not value > 0 or math.isinf(value) for value in found):
        raise InputError(f"--settings {text!r} is not understood: write numbers over 0, as in 1,4,16")
    return found


@contextmanager
def _telling() -> Iterator[Any]:
    with err.status("reading") as status:
        yield lambda text: status.update(printable(text))


def _write(report: Report, out: Path | None, page: Path | None) -> None:
    from binderclip.data.files import write_whole
    from binderclip.evaluate.page import write_page

    if out is not None:
        write_whole(out / "rows.csv", report.rows_csv().encode("utf-8", "replace"))
        note(f"written: {out / 'rows.csv'}")
    if page is not None:
        note(f"written: {write_page(page, f'{report.data}: {report.probe}', [report])}")


def _show(report: Report, results: Sequence[Result]) -> None:
    from rich.table import Table
    from rich.text import Text

    from binderclip.evaluate.bench.summary import mean_and_spread

    places = {r.at: r.setting for r in sorted(results, key=lambda r: r.at)}
    measures = list(dict.fromkeys(name for r in results for name in r.measures))
    sys.stdout.flush()
    for measure in measures:
        table = Table(
            title=Text(f"{measure} on {printable(report.data)}"), title_justify="left", box=None, pad_edge=False
        )
        table.add_column("method")
        for name in places.values():
            table.add_column(name, justify="right")
        first = measure == measures[0]
        for name in ("CPU s", "memory") if first else ():
            table.add_column(name, justify="right")
        for slug in dict.fromkeys(r.method for r in results):
            own = [r for r in results if r.method == slug and r.measures]
            cells = [_cell(*mean_and_spread(results, slug, at, measure)) for at in places]
            if first:
                memory = max((r.memory for r in own), default=math.nan)
                cpu = sum(r.cpu for r in own) / len(own) if own else math.nan
                cells += [_plain(cpu, "{:.2f}"), _plain(memory / 2**20, "{:.0f} MB")]
            table.add_row(slug, *cells)
        console.print(table)
        console.print()
    for line in report.notes:
        note(printable(line))


def _cell(mean: float, spread: float) -> str:
    return "–" if math.isnan(mean) else f"{100 * mean:.1f} ± {100 * spread:.1f}"


def _plain(value: float, form: str) -> str:
    return "–" if math.isnan(value) else form.format(value)
