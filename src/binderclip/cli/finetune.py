"""`binderclip finetune`: make a model better on your own pictures, and see what it gained and what it kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from binderclip.cli.console import console, emit_json, note
from binderclip.cli.results import JSON
from binderclip.cli.training import Display, difference, show_validation
from binderclip.errors import InputError

__all__ = ["EPILOG", "finetune"]

EPILOG = """Examples:

binderclip finetune ./products --labels folder-names

binderclip finetune ./photos --labels captions.csv --model ViT-B-32/openai --epochs 5

binderclip finetune ./photos --retained ./other-classes        also watch accuracy on other things

binderclip index ./products --model runs/finetune/model"""


def finetune(
    path: Annotated[str, typer.Argument(metavar="PATH", help="Pictures: class folders, with captions, or a table.")],
    labels: Annotated[
        str | None,
        typer.Option("--labels", "-l", help="folder-names, or a table of captions (path, caption)."),
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", metavar="NAME", help="Model to begin with.")] = "pocket",
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the run.")] = Path("runs/finetune"),
    tune: Annotated[str, typer.Option("--tune", help="last (third of the image tower), image, or all.")] = "last",
    epochs: Annotated[float, typer.Option("--epochs", help="Passes at most; it stops when nothing is gained.")] = 10,
    lr: Annotated[float, typer.Option("--lr", help="Learning rate.")] = 3e-5,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Rows a step.")] = 32,
    holdout: Annotated[float, typer.Option("--holdout", help="Share of the rows to judge by.")] = 0.2,
    start_share: Annotated[
        float, typer.Option("--start-share", help="Share of the first weights in the result (WiSE-FT).")
    ] = 0.5,
    template: Annotated[
        str | None, typer.Option("--template", "-t", help="A sentence with {} for the class name, or a named set.")
    ] = None,
    retained: Annotated[
        str | None, typer.Option("--retained", metavar="DIR", help="Class folders on which accuracy should stay.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of everything that is drawn.")] = 0,
    cpu: Annotated[bool, typer.Option("--cpu", help="Stay on the CPU where there is a GPU.")] = False,
    as_json: JSON = False,
) -> int:
    """Fine-tune a model on your own pairs; the same command goes on with a run that was stopped."""
    from binderclip.hub import native
    from binderclip.train.finetune import agreement, finetune_job
    from binderclip.train.logbook import read
    from binderclip.train.loop import Run
    from binderclip.train.machine import Machine

    if (out / "model" / "config.json").is_file():
        raise InputError(f"{out} is finished: its model is {out / 'model'}; choose another --out to tune again")
    begun = (out / "recipe.yaml").is_file()
    options: dict[str, Any] = {"labels": labels, "model": model, "tune": tune, "epochs": epochs, "lr": lr}
    options |= {"batch_size": batch_size, "holdout": holdout, "start_share": start_share}
    options |= {"template": template, "seed": seed}
    job = finetune_job(path, **options, retained=retained, start=out / "start" if begun else None)
    for line in job.notes:
        note(f"note: {line}")
    assert job.validation is not None
    display = Display(job.recipe.phases[0].steps or 0, silent=as_json)
    run = Run(job, out, machine=Machine(cpu=cpu), listener=display)
    with display:
        result = run.train()
    assert result is not None
    held_out = job.validation.measure(result)
    kept = agreement(native.load(out / "start"), result, job.validation)
    first_measured = next(r for r in read(out / "log.jsonl") if r["event"] == "validation")
    after = held_out | (
        {} if job.retained is None else {f"retained_{k}": v for k, v in job.retained.measure(result).items()}
    )
    table = difference(first_measured, after)
    best = 0 if run.best is None else run.best[1]
    summary = {"run": str(out), "model": str(out / "model"), "best_step": best, "held_out": table, "kept": kept}
    if as_json:
        emit_json(summary)
        return 0
    show_validation(table)
    console.print(
        f"kept: {100 * kept['same_word']:.0f} % of held-out pictures have the same best of a hundred general words "
        f"(cosine to before {kept['cosine']:.3f})",
        markup=False,
    )
    if best == 0:
        note("nothing was gained on the held-out rows: the model is the one it began with")
    console.print(f"model: {out / 'model'}    use it: binderclip index {path} --model {out / 'model'}", markup=False)
    return 0
