"""`binderclip methods`: what there is, without importing any of it."""

from __future__ import annotations

from typing import Annotated

import typer

from binderclip.cards import Card, cards, coverage, find
from binderclip.cli.console import console, emit_json, note
from binderclip.cli.results import JSON

__all__ = ["methods_app"]

methods_app = typer.Typer(
    no_args_is_help=True,
    help="List the techniques that are here, and what is proved of each.",
    epilog="Examples: binderclip methods list --room adapt; binderclip methods coverage --json",
)


@methods_app.command("list")
def list_methods(
    room: Annotated[
        str | None, typer.Option("--room", "-r", help="Only those of one room (adapt, dense, ...).")
    ] = None,
    as_json: JSON = False,
) -> int:
    """List methods, a line each. Exit code 1 when there are none."""
    found = [card for card in cards().values() if room in (None, card.room)]
    if as_json:
        emit_json([_plain(card) for card in found])
    elif found:
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for name in ("method", "room", "paper", "year", "status"):
            table.add_column(name, overflow="fold")
        for card in sorted(found, key=lambda card: (card.room, card.slug)):
            table.add_row(card.slug, card.room, card.title, str(card.year or ""), card.status)
        console.print(table)
    if not found:
        total = coverage()["total"]
        where = f"in the room {room!r}" if room else f"of the {total} planned"
        note(f"no methods {where} yet; the README says what is coming")
    return 0 if found else 1


@methods_app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A method's name, as `methods list` shows it.")], as_json: JSON = False
) -> int:
    """Show one method: its paper, what it needs, and what proves each line of its specification."""
    card = find(name)
    if as_json:
        emit_json(_plain(card))
        return 0
    console.print(f"[bold]{card.name}[/bold]  {card.title}", markup=True)
    console.print(
        f"paper: arXiv {card.arxiv or '-'}, {card.year or '-'}   room: {card.room}   kind: {card.kind}", markup=False
    )
    console.print(
        f"needs: {', '.join(card.needs) or 'nothing special'}   from: {card.source}   status: {card.status}",
        markup=False,
    )
    for line, proof in card.must_show.items():
        console.print(f"  {line}: {proof or 'not proved yet'}", markup=False)
    return 0


@methods_app.command("coverage")
def show_coverage(as_json: JSON = False) -> int:
    """Count the systems that are implemented, against the list of all that are planned."""
    counts = coverage()
    if as_json:
        emit_json(counts)
    else:
        console.print(
            f"{counts['implemented']} implemented, {counts['partial']} partial, of {counts['total']}", markup=False
        )
        for line in counts["missed"]:
            console.print(f"  missed: {line}", markup=False)
    return 0


def _plain(card: Card) -> dict[str, object]:
    from dataclasses import asdict

    return asdict(card) | {"status": card.status}
