"""`binderclip train`: run a recipe, or go on with a run that was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from binderclip.cli.console import console, emit_json, note
from binderclip.cli.results import JSON
from binderclip.cli.training import Display, difference, show_validation
from binderclip.errors import InputError

if TYPE_CHECKING:
    from binderclip.train.recipe import Recipe

__all__ = ["EPILOG", "check_recipe", "go", "train"]

EPILOG = """Examples:

binderclip train contrastive-nano

binderclip train contrastive-nano data.pairs=./pairs optimizer.lr=5e-4 --out runs/mine

binderclip train runs/mine        go on where it was stopped

accelerate launch -m binderclip train my-recipe.yaml        on several processes"""


def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE|RUN", help="A recipe's name or file, or the folder of a run to go on with.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Changes, as in optimizer.lr=3e-4.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder of the run; runs/NAME by default.")
    ] = None,
    until: Annotated[int | None, typer.Option("--until", metavar="STEP", help="Stop there, to go on later.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, train nothing.")] = False,
    cpu: Annotated[bool, typer.Option("--cpu", help="Stay on the CPU where there is a GPU.")] = False,
    as_json: JSON = False,
) -> int:
    """Train a CLIP by a recipe. Ctrl-C stops between two steps; the same command goes on from there."""
    from binderclip.train.recipe import read_recipe

    folder = Path(recipe)
    if (folder / "recipe.yaml").is_file():
        if overrides or out:
            raise InputError(
                f"{folder} is a run: it goes on as it began, without changes; name a recipe to begin another"
            )
        found = read_recipe(folder / "recipe.yaml")
    else:
        found = read_recipe(recipe).with_(overrides or [])
        folder = out or Path("runs") / (found.name or "run")
    if dry_run:
        return check_recipe(found, as_json=as_json)
    summary = go(found, folder, until=until, cpu=cpu, silent=as_json)
    if as_json:
        emit_json(summary)
    from binderclip.train.machine import leave

    leave()
    return 0


def go(
    recipe: Recipe, folder: Path, *, until: int | None = None, cpu: bool = False, silent: bool = False
) -> dict[str, Any]:
    """Begin a run or go on with it, and tell what came of it."""
    from binderclip.train.assemble import assemble
    from binderclip.train.logbook import read
    from binderclip.train.loop import Run
    from binderclip.train.machine import Machine
    from binderclip.train.recipe import read_recipe

    begun = (folder / "recipe.yaml").is_file()
    if begun and read_recipe(folder / "recipe.yaml").to_dict() != recipe.to_dict():
        raise InputError(
            f"{folder} holds a run of another recipe: choose another --out, or `binderclip train {folder}`"
        )
    if begun and (folder / "model" / "config.json").is_file():
        raise InputError(f"{folder} is finished: its model is {folder / 'model'}; choose another --out to train again")
    job = assemble(recipe, folder / "start" if begun else None)
    for line in job.notes:
        note(f"note: {line}")
    machine = Machine(recipe.precision, trackers=recipe.trackers, folder=folder, cpu=cpu)
    display = Display(recipe.plan().steps, silent=silent or not machine.main)
    run = Run(job, folder, machine=machine, listener=display)
    if run.step and not silent:
        note(f"going on from step {run.step} of {run.steps}")
    with display:
        result = run.train(until=until)
    for line in run.reader.stream.report().lines():
        note(f"note: {line}")
    measured = [record for record in read(folder / "log.jsonl") if record["event"] == "validation"]
    rows = difference(measured[0], measured[-1]) if len(measured) > 1 else []
    if not silent and machine.main:
        if rows:
            show_validation(rows)
        if result is not None:
            console.print(f"model: {folder / 'model'}    curves: {folder / 'curves.html'}", markup=False)
        else:
            note(f"stopped at step {run.step} of {run.steps}; `binderclip train {folder}` goes on")
    return {
        "run": str(folder),
        "step": run.step,
        "steps": run.steps,
        "model": str(folder / "model") if result is not None else None,
        "held_out": rows,
        "read": run.reader.stream.report().state_dict(),
    }


def check_recipe(recipe: Recipe, *, as_json: bool = False) -> int:
    """Open everything that a recipe names, and say what it would do and cost; nothing is written."""
    from binderclip.train.assemble import assemble
    from binderclip.train.budget import cost

    job = assemble(recipe)
    laid = recipe.plan()
    sizes = {
        name: sum(parameter.numel() for parameter in tower.parameters()) for name, tower in job.clip.towers.items()
    }
    facts: dict[str, Any] = {"steps": laid.steps, "samples": laid.samples, "rows": job.pairs.rows, "parameters": sizes}
    image, text = job.clip.towers["image"], job.clip.towers["text"]
    if hasattr(image, "blocks") and hasattr(text, "blocks") and job.clip.preprocess is not None:
        rows = cost(
            laid,
            image_size=job.clip.preprocess.size,
            patch_size=int(image.patch_size),  # type: ignore[arg-type]
            image_width=int(image.width),  # type: ignore[arg-type]
            image_layers=len(image.blocks),  # type: ignore[arg-type]
            text_length=int(text.context_length),  # type: ignore[arg-type]
            text_width=int(text.width),  # type: ignore[arg-type]
            text_layers=len(text.blocks),  # type: ignore[arg-type]
            prefix=int(image.prefix),  # type: ignore[arg-type]
        )
        facts["phases"] = [vars(row) for row in rows]
    if as_json:
        emit_json(facts | {"notes": job.notes})
        return 0
    for line in job.notes:
        note(f"note: {line}")
    millions = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in sizes.items())
    console.print(
        f"{laid.steps:,} steps, {laid.samples:,} samples of {job.pairs.rows or '?'} rows; parameters: {millions}"
    )
    if "phases" in facts:
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for name in ("phase", "samples", "image tokens", "text tokens", "share", "TFLOP forward"):
            table.add_column(name, justify="right")
        for row in rows:
            share, flops = f"{100 * row.share:.0f} %", f"{row.flops / 1e12:,.1f}"
            table.add_row(str(row.phase), f"{row.samples:,}", str(row.image_tokens), str(row.text_tokens), share, flops)
        console.print(table)
    return 0
