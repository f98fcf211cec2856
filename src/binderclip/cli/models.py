"""`binderclip models`: what can be loaded, what is on this machine, and what a model says of itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

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
    word: Annotated[str | None, typer.Argument(help="Only names that contain this.")] = None,
    cached: Annotated[bool, typer.Option("--cached", help="Only what is on this machine.")] = False,
    as_json: JSON = False,
) -> int:
    """List the embedded models and the published ones that load by name. Exit code 1 when none is left."""
    rows = [row for row in model_rows() if (row["where"] or not cached) and (word or "").lower() in row["name"].lower()]
    if as_json:
        emit_json(rows)
    elif rows:
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for title in ("model", "size", "licence", "languages", "on this machine"):
            table.add_column(title, justify="right" if title == "size" else "left", overflow="fold")
        for row in rows:
            size = f"{row['megabytes']:,.0f} MB" if row["megabytes"] else f"{row['parameters_millions']:,}M"
            table.add_row(row["name"], size, row["licence"], row["languages"], row["where"] or "")
        console.print(table)
        note(f"{len(rows)} models; M: millions of parameters")
    else:
        note("no model of that name; `binderclip models ls` shows all")
    return 0 if rows else 1


def model_rows() -> list[dict[str, Any]]:
    """One row a model: name, size, licence, languages, where it is on this machine."""
    from binderclip.hub.cache import location
    from binderclip.hub.embedded import embedded_models
    from binderclip.hub.zoo import entries

    rows: list[dict[str, Any]] = []
    for name, folder in embedded_models().items():
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        size = sum(path.stat().st_size for path in folder.iterdir())
        languages = ", ".join(config.get("languages", []))
        rows.append(_row(name, "", size / 1e6, 0, config.get("licence", ""), languages, "in the package"))
    for entry in entries():
        place = location(entry.repo)
        size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) if place else 0
        rows.append(
            _row(
                entry.name,
                entry.repo,
                size / 1e6,
                entry.params,
                entry.licence,
                entry.languages,
                str(place) if place else None,
            )
        )
    return rows


def _row(
    name: str, repo: str, megabytes: float, params: int, licence: str, languages: str, where: str | None
) -> dict[str, Any]:
    return {
        "name": name, "repository": repo, "megabytes": round(megabytes, 1), "parameters_millions": params,
        "licence": licence, "languages": languages, "where": where,
    }  # fmt: skip


@models_app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="An embedded or published model, or a folder of one.")],
    as_json: JSON = False,
) -> int:
    """Show a model: the model card of an embedded one, the table's row of a published one, the config of a folder."""
    from binderclip.hub.embedded import checkpoint_folder

    folder = checkpoint_folder(name)
    if folder is not None:
        return _show_folder(folder, as_json)
    from binderclip.hub.cache import location
    from binderclip.hub.zoo import find

    entry = find(name)
    place = location(entry.repo)
    row = _row(entry.name, entry.repo, 0, entry.params, entry.licence, entry.languages, str(place) if place else None)
    row["aliases"] = list(entry.aliases)
    if as_json:
        emit_json(row)
        return 0
    console.print(f"[bold]{entry.name}[/bold]  {entry.repo}  {entry.params} million parameters")
    console.print(f"licence: {entry.licence}   languages: {entry.languages}", markup=False)
    console.print(
        f"on this machine: {place or f'no; fetch it with: binderclip models pull {entry.name}'}", markup=False
    )
    return 0


def _show_folder(folder: Path, as_json: bool) -> int:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("probe", None)
    if as_json:
        emit_json(config)
        return 0
    card = folder / "MODEL_CARD.md"
    if not card.is_file():
        emit_json(config)
        return 0
    text = card.read_text(encoding="utf-8")
    if console.is_terminal:
        from rich.markdown import Markdown

        console.print(Markdown(text))
    else:
        sys.stdout.write(text)
    return 0


@models_app.command("pull")
def pull(name: Annotated[str, typer.Argument(help="A published model, as `models ls` names it.")]) -> int:
    """Download a published model (extra `hf`), so that it works offline from then on."""
    from binderclip.hub.cache import fetch
    from binderclip.hub.embedded import embedded_models
    from binderclip.hub.zoo import find

    if name in embedded_models():
        note(f"{name} is in the package: nothing to fetch")
        return 0
    note(f"{name}: {fetch(find(name).repo)}")
    return 0


@models_app.command("rm")
def rm(name: Annotated[str, typer.Argument(help="A downloaded model.")]) -> int:
    """Remove a downloaded model from this machine."""
    from binderclip.hub.cache import remove
    from binderclip.hub.zoo import find

    note(f"freed {remove(find(name).repo) / 1e6:,.0f} MB")
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
