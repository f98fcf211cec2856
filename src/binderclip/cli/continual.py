"""`binderclip continual`: new classes over time, from class folders: what is learnt, what is forgotten, what stays open."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from binderclip.cli.console import console, emit_json, err, note
from binderclip.cli.results import JSON, printable
from binderclip.errors import InputError

if TYPE_CHECKING:
    from binderclip.continual.base import Rows, Stream
    from binderclip.continual.run import ContinualReport

__all__ = ["continual_app"]

RUN = """Examples:

binderclip continual run ./photos --increment 5

binderclip continual run ./train --test ./test --increment 10 --initial 50 --kind task --json

binderclip continual run ./photos --increment 5 --template "a good photo of a {}." --out runs/stream"""

_SHOWN = {
    "average_incremental": "average over steps",
    "last": "last",
    "forgetting": "forgetting",
    "backward_transfer": "backward transfer",
    "transfer": "transfer to tasks not learnt yet",
}

continual_app = typer.Typer(
    no_args_is_help=True,
    help="Learn new classes over time, and see what is kept of the old ones.",
    epilog="Example: binderclip continual run ./photos --increment 5",
)


@continual_app.callback()
def root() -> None:
    """Learn new classes over time, and see what is kept of the old ones."""


@continual_app.command("run", epilog=RUN)
def run(
    data: Annotated[str, typer.Argument(metavar="DIR", help="Class folders, or any labelled source, to learn from.")],
    test: Annotated[
        str, typer.Option("--test", metavar="DIR", help="What is measured on; a fifth of DIR is held out by default.")
    ] = "",
    method: Annotated[
        str, typer.Option("--method", metavar="NAME", help="As `methods list --room continual` has it.")
    ] = "continual_clip",
    increment: Annotated[int, typer.Option("--increment", min=1, help="Classes a task.")] = 10,
    initial: Annotated[int | None, typer.Option("--initial", min=1, help="Classes of the first task.")] = None,
    kind: Annotated[
        str, typer.Option("--kind", help="class: among all classes so far; task: within the task's own.")
    ] = "class",
    template: Annotated[
        str, typer.Option("--template", "-t", help="A sentence with {} for the name, or a named set.")
    ] = "a good photo of a {}.",
    model: Annotated[str, typer.Option("--model", "-m", envvar="BINDERCLIP_MODEL", help="Model.")] = "pocket",
    seed: Annotated[int, typer.Option("--seed", help="Of the order of classes.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Keep the run there; a stopped one goes on.")
    ] = None,
    as_json: JSON = False,
) -> int:
    """Cut the classes into tasks, learn them one after the other, and print the accuracy matrix and what it says."""
    from binderclip.cards import find, load_method
    from binderclip.continual.continual_clip import ContinualCLIP
    from binderclip.continual.run import run as run_stream
    from binderclip.continual.streams import class_incremental
    from binderclip.data.templates import templates
    from binderclip.engine import Encoder

    if kind not in ("class", "task"):
        raise InputError(f"no stream is of kind {kind!r}: use class or task")
    card = find(method)
    if card.kind != "Strategy":
        raise InputError(f"{card.slug} is no strategy: `binderclip methods list --room continual` shows them")
    templates(template)
    encoder: Any = Encoder(model)
    train, measured = _rows(encoder, data, test)
    stream = class_incremental(train, measured, increment, initial=initial, seed=seed, kind=kind, template=template)
    with err.status("learning") as status:
        found = run_stream(
            load_method(card.slug)(),
            encoder,
            stream,
            untouched=ContinualCLIP(),
            folder=out,
            listener=lambda e: status.update(f"task {e['task'] + 1} of {len(stream.tasks)}"),
        )
    if as_json:
        emit_json(_plain(found, method, model))
    else:
        _show(found, stream, method)
    return 0


def _rows(encoder: Any, data: str, test: str) -> tuple[Rows, Rows]:
    """Encoded rows to learn from and to measure on."""
    from binderclip.continual.encoding import encoded_rows
    from binderclip.continual.streams import held_out
    from binderclip.data.pairs import Pairs

    with err.status("encoding") as status:

        def tell(done: int, total: int) -> None:
            status.update(f"encoding {done:,} of {total:,} pictures")

        sources = [Pairs.open(os.path.abspath(one) if os.path.exists(one) else one) for one in (data, test) if one]
        made = [encoded_rows(encoder, source, tell) for source in sources]
    for rows, lost in made:
        if lost:
            note(f"note: {len(lost)} pictures could not be read, the first: {printable(': '.join(lost[0]))}")
        if len(set(rows.y)) < 2:
            raise InputError(f"there are pictures of {len(set(rows.y))} classes: a stream needs at least two")
    return (made[0][0], made[1][0]) if test else held_out(made[0][0])


def _plain(found: ContinualReport, method: str, model: str) -> dict[str, Any]:
    def clean(values: Any) -> Any:
        if isinstance(values, list):
            return [clean(one) for one in values]
        return None if isinstance(values, float) and math.isnan(values) else values

    return {
        "method": method,
        "model": model,
        "tasks": list(found.names),
        "R": clean(found.R.tolist()),
        "zero_shot": clean(found.Z.tolist()),
        "n": list(found.n),
        "metrics": {key: clean(value) for key, value in found.metrics.items()},
        "seconds": list(found.seconds),
        "trainable": found.trainable,
        "bytes": found.bytes,
        **found.facts,
    }


def _show(found: ContinualReport, stream: Stream, method: str) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"{method}: accuracy in % on each task (columns) after each task (rows)"), box=None)
    table.add_column("after")
    for j in range(len(found.names)):
        table.add_column(str(j + 1), justify="right")
    for i, row in enumerate(found.R):
        cells = [Text(_percent(v), style="" if j <= i else "dim") for j, v in enumerate(row)]
        table.add_row(str(i + 1), *cells)
    table.add_row("zero-shot", *(Text(_percent(v), style="dim") for v in found.Z))
    sys.stdout.flush()
    console.print(table)
    console.print()
    for key, title in _SHOWN.items():
        console.print(f"  {title:34} {_percent(found.metrics[key]):>6}", highlight=False)
    names: Sequence[str] = [f"{i + 1}: {', '.join(task.classes)}" for i, task in enumerate(stream.tasks)]
    for name in names:
        note(printable(name if len(name) < 110 else name[:107] + "..."))


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}"
