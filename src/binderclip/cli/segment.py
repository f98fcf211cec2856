"""`binderclip segment`: where in a picture things are, by words alone."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from binderclip.cli.console import console, emit_json, err, note, warn
from binderclip.cli.options import method_options
from binderclip.cli.pictures import pictures_of
from binderclip.cli.results import JSON, printable
from binderclip.errors import InputError, MediaError

if TYPE_CHECKING:
    from binderclip.dense.base import Segmenter

__all__ = ["EPILOG", "segment"]

EPILOG = """Examples:

binderclip segment photo.jpg "cat, sofa" -o out.png

binderclip segment ./photos "sky, sea, sand" -o ./maps --json

binderclip segment photo.jpg "dog" --method cliptrase --model ./my-vit --background "grass, sky" --labels dog.png"""


def segment(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A picture, or a folder of pictures.")],
    texts: Annotated[str, typer.Argument(metavar="TEXTS", help="What to find, with commas; synonyms behind bars.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="PNG", help="The overlay; IMAGE.segmented.png here. Of a folder: a folder."
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", metavar="PNG", help="Also the bare labels: a grey PNG of 1, 2, ... and 0 for none."),
    ] = None,
    method: Annotated[
        str, typer.Option("--method", metavar="NAME", help="As `methods list --room dense` has it.")
    ] = "maskclip",
    model: Annotated[str, typer.Option("--model", "-m", envvar="BINDERCLIP_MODEL", help="Model.")] = "pocket",
    background: Annotated[
        str | None,
        typer.Option("--background", "-b", help="What else is in the picture, with commas; '' for nothing else."),
    ] = None,
    threshold: Annotated[
        float, typer.Option("--threshold", min=0, max=1, help="Leave pixels below this probability out.")
    ] = 0.0,
    size: Annotated[
        int | None, typer.Option("--size", min=16, max=2048, help="Pixels of the short side that it works on.")
    ] = None,
    options: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="An option of the method. Repeatable.")
    ] = None,
    as_json: JSON = False,
) -> int:
    """Colour a picture by what is where. Exit code 1 where nothing of TEXTS was found. Needs the extra `torch`."""
    names = _names(texts)
    files = pictures_of([image])
    many = len(files) > 1 or os.path.isdir(image)
    if many and labels is not None:
        raise InputError("--labels is for one picture: name a picture, not a folder")
    targets = [_target(Path(path), out, many) for path in files]
    with err.status("loading"):
        made = _segmenter(method, model, names, background, threshold, size, options or ())
    rows = []
    with err.status("segmenting") as status:
        for path, target in zip(files, targets, strict=True):
            status.update(f"segmenting {printable(path)}")
            try:
                rows.append(_one(made, path, names, target, labels))
            except MediaError as error:
                said = str(error) if str(error).startswith(path) else f"{path}: {error}"
                if not many:
                    raise MediaError(said) from None
                warn(printable(said))
    if not rows:
        raise InputError(f"no picture in {image} could be read")
    if as_json:
        emit_json(rows if many else rows[0])
    else:
        _show(rows)
    return 0 if any(one["share"] for row in rows for one in row["texts"]) else 1


def _names(texts: str) -> list[str]:
    names = [part.strip() for part in texts.split(",")]
    if not all(names):
        raise InputError('name what to find, with commas between, as in: binderclip segment photo.jpg "cat, sofa"')
    return names


def _target(path: Path, out: Path | None, many: bool) -> Path:
    if many:
        folder = out or Path("segmented")
        if folder.suffix.lower() == ".png" or folder.is_file():
            raise InputError(f"{folder} is no folder: of several pictures name a folder with --out")
        return folder / f"{path.stem}.png"
    target = out or Path(f"{path.stem}.segmented.png")
    if target.suffix.lower() != ".png":
        raise InputError(f"{target} is no name of a PNG: end it in .png")
    if not target.absolute().parent.is_dir():
        raise InputError(f"the folder of {target} is not there: make it first")
    return target


def _segmenter(
    method: str, model: str, names: Sequence[str], background: str | None, threshold: float, size: int | None,
    options: Sequence[str],
) -> Segmenter:  # fmt: skip
    from binderclip import load
    from binderclip.cards import find, load_method
    from binderclip.dense.base import BACKGROUND

    card = find(method)
    if card.kind != "Segmenter":
        raise InputError(f"{card.slug} is no segmenter: `binderclip methods list --room dense` shows them")
    given: dict[str, Any] = {"threshold": threshold, "size": size}
    given["background"] = BACKGROUND if background is None else tuple(_names(background)) if background.strip() else ()
    if len(names) == 1 and not given["background"] and not threshold:
        raise InputError("one text alone is everywhere: give --background or --threshold, or a second text")
    method_class = load_method(card.slug)
    given |= method_options(method_class, card.slug, options)
    clip: Any = load(model)
    try:
        made: Segmenter = method_class(clip.eval(), **given)
    except TypeError as error:
        raise InputError(f"{method} cannot work with its options ({error}): check --set") from None
    made.text_vectors(list(names))  # a name that cannot be used is told before anything is written
    return made


def _one(made: Segmenter, path: str, names: Sequence[str], target: Path, labels: Path | None) -> dict[str, Any]:
    import numpy as np

    from binderclip.data.files import write_whole
    from binderclip.data.media import open_image
    from binderclip.dense.drawing import draw_labels

    picture = open_image(path).image
    logits, found = made.both(picture, names)
    target.parent.mkdir(parents=True, exist_ok=True)
    for place, drawn in ((target, draw_labels(picture, found, names)), (labels, _grey(found))):
        if place is not None:
            buffer = io.BytesIO()
            drawn.save(buffer, "PNG")
            write_whole(place, buffer.getvalue())
    texts = []
    for i, name in enumerate(names):
        rows, columns = np.nonzero(found == i)
        box = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1] if len(rows) else None
        row = {"text": name, "share": round(len(rows) / found.size, 4), "box": box}
        texts.append(row | {"cosine": round(float(logits[i].max()) / made.tau, 4)})
    out: dict[str, Any] = {"image": path, "width": picture.width, "height": picture.height, "texts": texts}
    return out | {"overlay": str(target), "labels": None if labels is None else str(labels)}


def _grey(found: Any) -> Any:
    from PIL import Image

    if found.max() > 254:
        raise InputError("--labels holds at most 255 texts: ask for fewer")
    return Image.fromarray((found + 1).astype("uint8"))


def _show(rows: Sequence[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name, justify in (("share", "right"), ("text", "left"), ("box", "left"), ("picture", "left")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        for place, one in enumerate(sorted(row["texts"], key=lambda t: -t["share"])):
            share = f"{one['share']:.0%}" if one["share"] else "–"
            box = " ".join(str(v) for v in one["box"]) if one["box"] else ""
            table.add_row(share, printable(one["text"]), box, printable(row["image"]) if place == 0 else "")
    sys.stdout.flush()
    console.print(table)
    note("written: " + ", ".join(printable(row["overlay"]) for row in rows[:3]) + (" ..." if len(rows) > 3 else ""))
