"""`binderclip models`: what can be loaded, what is on this machine, and what a model says of itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from binderclip.cli.console import console, emit_json, note
from binderclip.cli.results import JSON

__all__ = ["models_app"]

models_app = typer.Typer(
    no_args_is_help=True,
    help="List, show, download, remove and calibrate models.",
    epilog="Examples: binderclip models ls; binderclip models show pocket; binderclip models pull ViT-B-32/openai",
)


@models_app.command("ls")
def ls(
    word: Annotated[str | None, typer.Argument(help="Only names, licences and languages that contain this.")] = None,
    cached: Annotated[bool, typer.Option("--cached", help="Only what is on this machine.")] = False,
    as_json: JSON = False,
) -> int:
    """List the embedded models and the published ones that load by name. Exit code 1 when none is left."""
    from binderclip.hub.models import list_models

    rows = list_models(word or "", cached_only=cached)
    if as_json:
        emit_json([row.to_dict() for row in rows])
    elif rows:
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for title in ("model", "parameters", "here", "licence", "languages"):
            table.add_column(title, justify="right" if title in ("parameters", "here") else "left", overflow="fold")
        for row in rows:
            here = f"{row.bytes / 1e6:,.0f} MB" if row.bytes else ""
            table.add_row(row.name, f"{row.params:,} M" if row.params else "", here, row.licence, row.languages)
        console.print(table)
    if not rows:
        note("no such model; `binderclip models ls` shows all")
    return 0 if rows else 1


@models_app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="An embedded or published model, or a folder of one.")],
    as_json: JSON = False,
) -> int:
    """Show a model: the card of an embedded one, the table's row of a published one, the config of a folder."""
    from binderclip.hub.models import show_model

    facts = show_model(name)
    if as_json:
        emit_json(facts)
    elif facts.get("card"):
        _show_card(facts["card"])
    else:
        for key, value in facts.items():
            if value not in ("", None, [], {}, 0):
                console.print(f"{key}: {json.dumps(value) if isinstance(value, dict | list) else value}", markup=False)
        if facts["kind"] == "online":
            note(f"not on this machine; fetch it with: binderclip models pull {name}")
    return 0


def _show_card(text: str) -> None:
    if console.is_terminal:
        from rich.markdown import Markdown

        console.print(Markdown(text))
    else:
        sys.stdout.write(text)


@models_app.command("pull")
def pull(name: Annotated[str, typer.Argument(help="A published model, as `models ls` names it.")]) -> int:
    """Download a published model (extra `hf`), so that it works offline from then on."""
    from binderclip.hub.models import pull_model

    note(f"{name}: {pull_model(name)}")
    return 0


@models_app.command("rm")
def rm(name: Annotated[str, typer.Argument(help="A downloaded model.")]) -> int:
    """Remove a downloaded model from this machine."""
    from binderclip.hub.models import remove_model

    note(f"freed {remove_model(name) / 1e6:,.0f} MB")
    return 0


@models_app.command("export")
def export(
    name: Annotated[str, typer.Argument(help="Any model that loads by name, or a folder or file of one.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write; it is a model from then on.")
    ],
    half: Annotated[bool, typer.Option("--half/--full", help="Keep weights as fp16 (half the size) or fp32.")] = False,
    as_json: JSON = False,
) -> int:
    """Save a model with ONNX graphs beside its weights, so that search runs it without torch (extra `export`)."""
    from binderclip.errors import NeedsExtraError

    try:
        import torch
    except ImportError:
        raise NeedsExtraError("exporting a model", "export") from None
    from binderclip.engine.torch_export import export_onnx
    from binderclip.hub import load
    from binderclip.hub.native import save

    save(load(name), out, dtype=torch.float16 if half else None)
    worst = export_onnx(load(str(out)), out)
    if as_json:
        emit_json({"folder": str(out), "largest_difference": worst})
    else:
        note(f"written: {out} (largest difference to torch: {max(worst.values()):.1e})")
        note(f"use it with: binderclip index PATH --model {out}")
    return 0


@models_app.command("calibrate")
def calibrate(
    name: Annotated[str, typer.Argument(help="A folder of a model of yours, in binderclip's layout.")],
    pictures: Annotated[Path, typer.Argument(metavar="DIR", help="One folder of pictures per class, named after it.")],
    as_json: JSON = False,
) -> int:
    """Fit the probabilities of a model on pictures sorted into folders, and write them beside it."""
    from binderclip.cli.calibrating import calibrate_folder

    fitted = calibrate_folder(name, pictures)
    if as_json:
        emit_json(fitted)
    else:
        note(
            f"{fitted['pictures']} pictures of {fitted['classes']} classes: a = {fitted['a']:.3f}, b = {fitted['b']:.3f}"
        )
        note(f"search --min-score auto now works with {name}")
    return 0
