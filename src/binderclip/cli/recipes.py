"""`binderclip recipes`: the recipes that come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from binderclip.cli.console import console, emit_json, note
from binderclip.cli.results import JSON
from binderclip.errors import InputError

__all__ = ["recipes_app"]

recipes_app = typer.Typer(
    no_args_is_help=True,
    help="Training recipes: list, show, copy to change, check.",
    epilog="Examples: binderclip recipes copy contrastive-nano mine.yaml; binderclip recipes check mine.yaml",
)

NAME = Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe's name, or a file.")]


@recipes_app.command("ls")
def ls(as_json: JSON = False) -> int:
    """List the shipped recipes, a line each."""
    from binderclip.train.recipe import read_yaml, shipped_recipes

    rows = []
    for name, path in shipped_recipes().items():
        raw = read_yaml(path)
        first = path.read_text(encoding="utf-8").splitlines()[0]
        model = raw["model"] if isinstance(raw["model"], str) else raw["model"].get("preset", "its own towers")
        rows.append(
            {"recipe": name, "objective": raw["objective"]["name"], "model": model, "about": first.removeprefix("# ")}
        )
    if as_json:
        emit_json(rows)
        return 0
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("recipe", "objective", "model", "about"):
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    console.print(table)
    return 0


@recipes_app.command("show")
def show(name: NAME) -> int:
    """Print a recipe."""
    from binderclip.train.recipe import find_recipe

    console.print(find_recipe(name).read_text(encoding="utf-8").rstrip(), markup=False)
    return 0


@recipes_app.command("copy")
def copy(name: NAME, to: Annotated[Path, typer.Argument(metavar="FILE", help="Where; a .yaml.")]) -> int:
    """Copy a recipe to a file of your own."""
    from binderclip.data.files import write_whole
    from binderclip.train.recipe import find_recipe

    if to.exists():
        raise InputError(f"{to} is there already: choose another name")
    if to.suffix not in (".yaml", ".yml"):
        raise InputError(f"{to} must end in .yaml, so that `binderclip train {to}` takes it for a file")
    write_whole(to, find_recipe(name).read_bytes())
    note(f"written: {to}")
    return 0


@recipes_app.command("check")
def check(
    name: NAME,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Changes.")] = None,
    as_json: JSON = False,
) -> int:
    """Open everything that a recipe names, and say how long it is and what it costs; nothing is trained."""
    from binderclip.cli.train import check_recipe
    from binderclip.train.recipe import read_recipe

    return check_recipe(read_recipe(name).with_(overrides or []), as_json=as_json)
