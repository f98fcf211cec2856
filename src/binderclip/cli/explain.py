"""`binderclip explain`: which parts of a picture and which words make a model think that they fit."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated

import typer

from binderclip.cli.console import console, emit_json, note
from binderclip.cli.results import JSON
from binderclip.errors import InputError

__all__ = ["EPILOG", "explain"]

EPILOG = """Examples:

binderclip explain pocket photo.jpg "a red bicycle"

binderclip explain ./my-checkpoint photo.jpg "a dog" -o dog.png --json"""


def explain(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's name or folder.")],
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A picture.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What is looked for in it.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Where the overlay goes; IMAGE.explained.png here."),
    ] = None,
    as_json: JSON = False,
) -> int:
    """Draw what matters for a text over a picture, and say which words matter. Needs the extra `torch`."""
    import torch

    from binderclip.data.files import write_whole
    from binderclip.data.media import open_image
    from binderclip.evaluate.overlay import overlay
    from binderclip.evaluate.relevance import explain as explain_
    from binderclip.hub import load

    target = out or Path(f"{image.stem}.explained.png")
    if target.suffix.lower() != ".png":
        raise InputError(f"{target} is no name of a PNG: end it in .png")
    picture = open_image(image).image
    clip = load(model).eval()
    if clip.preprocess is None:
        raise InputError(f"{clip.name} does not say how pictures are prepared for it")
    seen = clip.preprocess(picture)  # [S, S, 3], what the tower sees
    pixels = torch.from_numpy(clip.preprocess.normalize(seen[None]))
    found = explain_(clip, pixels, text)
    from PIL import Image

    words = "  ".join(f"{word} {fall:+.3f}" for word, fall in found.words)
    lines = [f"{text!r}: cosine {found.cosine:.3f}", f"each word's share: {words}"]
    buffer = io.BytesIO()
    overlay(Image.fromarray(seen), found.map, lines).save(buffer, "PNG")
    write_whole(target, buffer.getvalue())
    if as_json:
        emit_json(
            {
                "image": str(image),
                "text": text,
                "cosine": found.cosine,
                "words": [{"word": word, "fall": fall} for word, fall in found.words],
                "method": found.how,
                "map": found.map.round(4).tolist(),
                "overlay": str(target),
            }
        )
        return 0
    from rich.table import Table

    console.print(f"cosine {found.cosine:.3f}", markup=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("word")
    table.add_column("cosine falls without it by", justify="right")
    for word, fall in found.words:
        table.add_row(word, f"{fall:+.4f}")
    console.print(table)
    note(f"written: {target} ({found.how})")
    return 0
