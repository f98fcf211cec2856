"""`binderclip compress`: exports and int8 graphs of a model, each checked before it is kept."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from binderclip.cli.console import console, emit_json, err, note
from binderclip.cli.results import JSON
from binderclip.errors import InputError

__all__ = ["compress_app"]

EXPORT = """Examples:

binderclip compress export ViT-B-32/openai -o vit-b-32

binderclip compress export ./my-clip --engine openvino --half -o my-clip-onnx"""

QUANTIZE = """Examples:

binderclip compress quantize pocket ./photos -o pocket-int8

binderclip compress quantize ./my-clip ./labelled --labels folder-names -o my-clip-int8 --json

binderclip index ./photos --model ./pocket-int8"""

compress_app = typer.Typer(
    no_args_is_help=True,
    help="A smaller or faster model out of another: exports, int8.",
    epilog="Example: binderclip compress quantize pocket ./photos -o pocket-int8",
)

MODEL = Annotated[str, typer.Argument(metavar="MODEL", help="A model's name or folder.")]
OUT = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the new model.")]


@compress_app.callback()
def root() -> None:
    """A smaller or faster model out of another: exports, int8."""


@compress_app.command("export", epilog=EXPORT)
def export(
    model: MODEL,
    out: OUT,
    engine: Annotated[
        str, typer.Option("--engine", metavar="onnx|openvino|torch", help="What will run it; torch: weights alone.")
    ] = "onnx",
    half: Annotated[
        bool, typer.Option("--half", help="Store fp16 weights: half the size, vectors off by 1e-3.")
    ] = False,
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0.0, help="Largest difference from torch of a unit vector's entry.")
    ] = 1e-4,
    as_json: JSON = False,
) -> int:
    """Write a folder that runs without torch, and prove that each tower gives what torch gives. Needs the extra `export`."""
    if out.exists():
        raise InputError(f"{out} is there already: choose another --out, or move it away")
    with err.status(f"exporting {model}"):
        from binderclip import load
        from binderclip.compress.export import export as run

        done = run(load(model), out, engine=engine, half=half, tolerance=tolerance)
    if as_json:
        emit_json({"model": model} | asdict(done) | {"folder": str(done.folder)})
        return 0
    for tower, difference in done.differences.items():
        console.print(f"{tower}: off by {difference:.1g} from torch (at most {tolerance:g})", markup=False)
    note(f"{done.bytes / 1e6:.1f} MB in {out}; use it: binderclip index PATH --model {out}")
    return 0


@compress_app.command("quantize", epilog=QUANTIZE)
def quantize(
    model: MODEL,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Pictures of the kind you search.")],
    out: OUT,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels", metavar="folder-names", help="Compare zero-shot accuracy too, with these class names."
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=40, help="Pictures used at most.")] = 1000,
    calibration: Annotated[int, typer.Option("--calibration", min=8, help="Of these, how many calibrate.")] = 128,
    force: Annotated[bool, typer.Option("--force", help="Write it even though it loses more than it may.")] = False,
    as_json: JSON = False,
) -> int:
    """Write int8 graphs, once they find what the float model finds.

    Checked on pictures that were not calibrated on: mean cosine to the float vectors at least 0.98, top 10 of 100 searches
    overlapping by 95 %, and with --labels zero-shot accuracy within 0.5 points. Its vectors are a model of their own to
    the index. Needs the extra `export`.
    """
    from binderclip.cli.pictures import pictures_of
    from binderclip.compress.quantize import quantize as run
    from binderclip.data.hashing import hash64

    if labels not in (None, "folder-names"):
        raise InputError(f"--labels {labels}: the one kind of labels here is folder-names")
    pictures = sorted(sorted(pictures_of(paths)), key=lambda path: hash64(0, Path(path).name))[:limit]
    names = [Path(picture).parent.name for picture in pictures] if labels else None
    with err.status(f"calibrating and comparing on {len(pictures)} pictures"):
        checks = run(model, out, pictures, names, calibration=calibration, force=force)
    if as_json:
        emit_json({"model": model, "out": str(out)} | asdict(checks))
        return 0
    console.print(_table(asdict(checks)))
    note(f"use it: binderclip index PATH --model {out}")
    return 0


def _table(checks: dict[str, Any]) -> Table:
    table = Table(title=f"int8 against float, {checks['pictures']} pictures")
    table.add_column("what")
    table.add_column("measured", justify="right")
    table.add_row("cosine of pictures, mean", f"{checks['image_cosine']:.4f}")
    table.add_row("cosine of pictures, least", f"{checks['image_cosine_least']:.4f}")
    table.add_row("cosine of texts, mean", f"{checks['text_cosine']:.4f}")
    table.add_row(f"top 10 of {checks['queries']} searches that are the same", f"{100 * checks['overlap']:.1f} %")
    if checks["accuracy"] is not None:
        table.add_row("zero-shot accuracy, float", f"{checks['accuracy']:.2f} %")
        table.add_row("zero-shot accuracy, int8", f"{checks['accuracy_int8']:.2f} %")
    table.add_row(
        "graphs, MB (float weights: {:.1f})".format(checks["bytes"] / 1e6), f"{checks['bytes_int8'] / 1e6:.1f}"
    )
    return table
