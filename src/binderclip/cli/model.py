"""`binderclip model change`: one CLIP out of another, by a surgery of the room `model`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from binderclip.cli.console import console, emit_json, err
from binderclip.cli.options import method_options
from binderclip.cli.results import JSON
from binderclip.errors import InputError

__all__ = ["model_app"]

CHANGE = """Examples:

binderclip model change ViT-B-16/openai --method long_clip -o long

binderclip model change ./my-clip --method long_clip --set keep=20 --set factor=4 -o long --json"""

model_app = typer.Typer(
    no_args_is_help=True,
    help="Change a model: longer texts and other surgeries. (`models` lists and fetches them.)",
    epilog="Example: binderclip model change ./my-clip --method long_clip -o long",
)


@model_app.callback()
def root() -> None:
    """Change a model: longer texts and other surgeries; `models` lists and fetches them."""


@model_app.command("change", epilog=CHANGE)
def change(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's name or folder.")],
    method: Annotated[str, typer.Option("--method", metavar="NAME", help="As `methods list --room model` has it.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the new model.")],
    options: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="An option of the method. Repeatable.")
    ] = None,
    as_json: JSON = False,
) -> int:
    """Load a model, change it, and save what came of it; the old one stays as it is. Needs the extra `torch`."""
    from binderclip.cards import find, load_method

    card = find(method)
    if card.kind != "Surgery" or card.room != "model":
        raise InputError(f"{card.slug} changes no model: `binderclip methods list --room model` shows what does")
    if out.exists():
        raise InputError(f"{out} is there already: choose another --out, or move it away")
    surgery = load_method(card.slug)
    given = method_options(surgery, card.slug, options or ())
    with err.status(f"changing {model}"):
        from binderclip import load
        from binderclip.hub.native import save

        made = surgery(load(model), **given)
        save(made, out)
    facts: dict[str, Any] = {"model": model, "method": card.slug, "options": given, "out": str(out), "name": made.name}
    if as_json:
        emit_json(facts)
    else:
        console.print(f"model: {out}    look at it: binderclip models show {out}", markup=False)
    return 0
