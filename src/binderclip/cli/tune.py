"""`binderclip tune`: which engine is fastest for a model on this machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from binderclip.cli.console import console, emit_json, err, note
from binderclip.cli.results import JSON

__all__ = ["EPILOG", "tune"]

EPILOG = """Examples:

binderclip tune

binderclip tune ./my-clip --seconds 3

binderclip tune --dry-run --json

binderclip tune --forget"""


def tune(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", envvar="BINDERCLIP_MODEL", help="A model's name or folder.")
    ] = "pocket",
    seconds: Annotated[float, typer.Option("--seconds", min=0.05, max=60, help="For each measurement.")] = 1.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure and show; keep nothing.")] = False,
    forget: Annotated[bool, typer.Option("--forget", help="Drop what was kept for this model.")] = False,
    as_json: JSON = False,
) -> int:
    """Measure every installed engine on this machine, and use the fastest from now on.

    Engines: ONNX Runtime, OpenVINO (extra `fast`), torch (extra `torch`). The choice holds for this model on this processor;
    `--engine` or BINDERCLIP_ENGINE goes before it. Vectors stay the same to about 1e-6.
    """
    from binderclip.engine.tuned import write_tuned
    from binderclip.engine.tuning import best_of, fingerprint, measure

    mark = fingerprint(model)
    if forget:
        path = write_tuned(mark, None)
        emit_json({"model": model, "forgotten": True}) if as_json else note(f"{model} is untuned again ({path})")
        return 0
    skipped: dict[str, str] = {}
    found = []
    with err.status(f"measuring {model}") as status:
        for speed in measure(model, seconds=seconds, on_skipped=skipped.__setitem__):
            found.append(speed)
            status.update(
                f"{speed.engine}, {speed.threads} threads, batch {speed.batch}: {speed.images:.0f} pictures/s"
            )
    best = best_of(found)
    kept = None if dry_run else write_tuned(mark, best)
    if as_json:
        emit_json(
            {
                "model": model,
                "fingerprint": mark,
                "best": asdict(best),
                "measured": [asdict(speed) for speed in found],
                "skipped": skipped,
                "kept_in": None if kept is None else str(kept),
            }
        )
        return 0
    table = Table(title=f"{model} on this machine")
    for heading in ("engine", "threads", "batch", "pictures/s", "one text, ms"):
        table.add_column(heading, justify="left" if heading == "engine" else "right")
    for speed in found:
        chosen = (speed.engine, speed.threads, speed.batch) == (best.engine, best.threads, best.batch)
        cells = (speed.engine, str(speed.threads), str(speed.batch), f"{speed.images:.1f}", f"{speed.text_ms:.1f}")
        table.add_row(*cells, style="bold green" if chosen else None)
    console.print(table)
    for engine, reason in skipped.items():
        note(f"{engine} left out: {reason}")
    words = f"{best.engine}, {best.threads} threads, {best.batch} pictures a call"
    note(f"best: {words}; not kept (--dry-run)" if kept is None else f"from now on: {words} (kept in {kept})")
    return 0
