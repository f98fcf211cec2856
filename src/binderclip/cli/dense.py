"""`binderclip dense`: what the room can beside `segment`: is this thing damaged, and where."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from binderclip.cli.console import console, emit_json, err, note, warn
from binderclip.cli.pictures import pictures_of
from binderclip.cli.results import JSON, printable
from binderclip.errors import InputError, MediaError

__all__ = ["dense_app"]

ANOMALY = """Examples:

binderclip dense anomaly part.jpg --name "metal nut" --model ./my-vit

binderclip dense anomaly ./parts --name bottle --normal ./good --out maps --model ./my-vit

binderclip dense anomaly ./parts --name bottle --normal good.png --above 0.5 --json --model ./my-vit"""

dense_app = typer.Typer(
    no_args_is_help=True,
    help="Where in a picture: anomalies; segmentation by words is `binderclip segment`.",
    epilog='Example: binderclip dense anomaly ./parts --name "metal nut" --normal ./good',
)


@dense_app.callback()
def root() -> None:
    """Where in a picture: anomalies; segmentation by words is `binderclip segment`."""


@dense_app.command("anomaly", epilog=ANOMALY)
def anomaly(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Pictures and folders of pictures.")],
    name: Annotated[str, typer.Option("--name", help="What the pictures show, as in 'metal nut'.")],
    normal: Annotated[
        list[str] | None, typer.Option("--normal", metavar="PATH", help="Sound ones, one to four. Repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where the maps go.")] = Path("anomalies"),
    method: Annotated[
        str, typer.Option("--method", metavar="NAME", help="As `methods list --room dense` has it.")
    ] = "winclip",
    model: Annotated[
        str, typer.Option("--model", "-m", envvar="BINDERCLIP_MODEL", help="A ViT; `pocket` is convolutional.")
    ] = "pocket",
    above: Annotated[
        float, typer.Option("--above", min=0, max=1, help="Exit code 1 where no picture scores above this.")
    ] = 0.0,
    as_json: JSON = False,
) -> int:
    """Score how damaged things are, the worst first, and draw where. Needs the extra `torch`."""
    from binderclip import load
    from binderclip.cards import find, load_method
    from binderclip.data.media import open_image

    card = find(method)
    if card.kind != "AnomalySegmenter":
        raise InputError(f"{card.slug} finds no anomalies: `binderclip methods list --room dense` shows what does")
    if not name.strip():
        raise InputError("name the thing that the pictures show, as in --name 'metal nut'")
    files, sound = pictures_of(images), pictures_of(normal) if normal else []
    with err.status("loading"):
        clip: Any = load(model)
        made = load_method(card.slug)(clip.eval())
    rows: list[dict[str, Any]] = []
    with err.status("looking at the sound ones") as status:
        made.fit([_opened(open_image, path) for path in sound])
        for i, path in enumerate(files):
            status.update(f"{i + 1} of {len(files)}: {printable(path)}")
            try:
                picture = _opened(open_image, path)
            except MediaError as error:
                if len(files) == 1:
                    raise
                warn(printable(str(error)))
                continue
            score, found = made.score(picture, name), made.segment(picture, [name])[0].numpy()
            target = out / f"{i:04d}-{Path(path).stem}.png"
            _draw(target, picture, found, [f"{Path(path).name}: {score:.2f}"])
            rows.append(
                {"image": path, "score": round(score, 4), "most": round(float(found.max()), 4), "map": str(target)}
            )
    if not rows:
        raise InputError("no picture could be read")
    rows.sort(key=lambda row: -row["score"])
    if as_json:
        emit_json(rows)
    else:
        _show(rows)
        note(f"maps: {out}")
    return 0 if rows[0]["score"] >= above else 1


def _opened(open_image: Any, path: str) -> Any:
    try:
        return open_image(path).image
    except MediaError as error:
        raise MediaError(str(error) if str(error).startswith(path) else f"{path}: {error}") from None


def _draw(target: Path, picture: Any, found: Any, lines: Sequence[str]) -> None:
    from binderclip.data.files import write_whole
    from binderclip.evaluate.overlay import overlay

    buffer = io.BytesIO()
    overlay(picture, found, lines).save(buffer, "PNG")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, buffer.getvalue())


def _show(rows: Sequence[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("score", justify="right")
    table.add_column("most", justify="right")
    table.add_column("picture", overflow="fold")
    for row in rows:
        table.add_row(f"{row['score']:.2f}", f"{row['most']:.2f}", printable(row["image"]))
    sys.stdout.flush()
    console.print(table)
