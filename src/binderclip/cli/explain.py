"""`binderclip explain`: which parts of a picture and which words make a model think that they fit; what heads look at."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from binderclip.cli.console import console, emit_json, err, note, warn
from binderclip.cli.results import JSON, printable
from binderclip.errors import InputError, MediaError

if TYPE_CHECKING:
    from torch import Tensor

    from binderclip.evaluate.decomposition import Decomposition
    from binderclip.evaluate.textspan import TextSpan
    from binderclip.model.clip import CLIP

__all__ = ["EPILOG", "explain"]

EPILOG = """Examples:

binderclip explain pocket photo.jpg "a red bicycle"

binderclip explain ./my-checkpoint photo.jpg "a dog" -o dog.png --json

binderclip explain ./my-vit photo.jpg "a dog" --patches

binderclip explain ./my-vit ./photos --heads

binderclip explain ./my-vit ./photos "a beach" --heads --top 3 --layers 2 --json"""

_TABLES = (".parquet", ".csv", ".tsv", ".jsonl", ".json", ".tar", ".arrow")


def explain(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's name or folder.")],
    things: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE TEXT", help="A picture and what is looked for; with --heads pictures, folders or tables."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Where the overlay goes; IMAGE.explained.png here."),
    ] = None,
    patches: Annotated[
        bool, typer.Option("--patches", help="Draw what each patch adds to the embedding along TEXT (ViTs only).")
    ] = False,
    heads: Annotated[
        bool,
        typer.Option("--heads", help="Say in words what each attention head looks at, over all pictures (ViTs only)."),
    ] = False,
    texts: Annotated[
        Path | None,
        typer.Option("--texts", metavar="FILE", help="Descriptions for --heads, one a line; general ones by default."),
    ] = None,
    layers: Annotated[int, typer.Option("--layers", min=1, help="Last layers whose heads are described.")] = 4,
    top: Annotated[int, typer.Option("--top", "-n", min=1, max=50, help="Texts a head.")] = 5,
    most: Annotated[int, typer.Option("--most", min=1, help="Pictures that --heads looks at, the first ones.")] = 512,
    as_json: JSON = False,
) -> int:
    """Draw what matters for a text over a picture, and say which words matter; or, with --heads, what each head looks at.

    Needs the extra `torch`.
    """
    if heads:
        if patches or out is not None:
            raise InputError("--heads writes no overlay: leave out --patches and --out")
        return _heads(model, things, texts, layers, top, most, as_json)
    if len(things) != 2:
        raise InputError('give one picture and one text, as in: binderclip explain pocket photo.jpg "a dog"')
    if texts is not None:
        raise InputError("--texts goes with --heads")
    return _overlay(model, Path(things[0]), things[1], out, patches, as_json)


def _overlay(model: str, image: Path, text: str, out: Path | None, patches: bool, as_json: bool) -> int:
    import torch
    from PIL import Image

    from binderclip.data.files import write_whole
    from binderclip.data.media import open_image
    from binderclip.evaluate.overlay import overlay
    from binderclip.evaluate.relevance import explain as explain_

    target = out or Path(f"{image.stem}.explained.png")
    if target.suffix.lower() != ".png":
        raise InputError(f"{target} is no name of a PNG: end it in .png")
    picture = open_image(image).image
    clip = _load(model)
    assert clip.preprocess is not None
    seen = clip.preprocess(picture)  # [S, S, 3], what the tower sees
    pixels = torch.from_numpy(clip.preprocess.normalize(seen[None]))
    found = explain_(clip, pixels, text)
    drawn, how = found.map, found.how
    if patches:
        from binderclip.evaluate.textspan import TextSpan

        drawn, how = TextSpan(clip).patch_map(pixels, text), "what each patch adds to the embedding"
    words = "  ".join(f"{word} {fall:+.3f}" for word, fall in found.words)
    lines = [f"{text!r}: cosine {found.cosine:.3f}", f"each word's share: {words}"]
    buffer = io.BytesIO()
    overlay(Image.fromarray(seen), drawn, lines).save(buffer, "PNG")
    write_whole(target, buffer.getvalue())
    if as_json:
        emit_json(
            {
                "image": str(image),
                "text": text,
                "cosine": found.cosine,
                "words": [{"word": word, "fall": fall} for word, fall in found.words],
                "method": how,
                "map": drawn.round(4).tolist(),
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
    note(f"written: {target} ({how})")
    return 0


def _heads(model: str, things: list[str], texts: Path | None, layers: int, top: int, most: int, as_json: bool) -> int:
    from binderclip.evaluate.decomposition import collect, splittable
    from binderclip.evaluate.textspan import TextSpan

    sources, text = _sources(things)
    said = None if texts is None else _lines(texts)
    clip = _load(model)
    splittable(clip)
    span = TextSpan(clip, said, m=top, last_layers=layers)
    status = err.status("looking at the pictures") if err.is_terminal else None
    if status:
        status.start()
    try:
        pictures = _Seen(clip, sources, most)
        terms = collect(clip, pictures)  # type: ignore[arg-type]  # its slices are pixels
        facts = {"model": clip.name, "images": len(pictures), **_described(span, terms, text, top)}
    finally:
        if status:
            status.stop()
    if as_json:
        emit_json(facts)
        return 0
    _show(facts, text)
    return 0


def _described(span: TextSpan, terms: Decomposition, text: str | None, top: int) -> dict[str, Any]:
    """What each head of the last layers says, and with a text how the mean cosine is made up; the parts add to it."""
    several = len(terms.embedding) > 1
    texts = span.fit(terms) if several else span.said(terms, top)
    mean, spread = terms.mean(), (terms.embedding - terms.embedding.mean(0)).square().sum()
    rows: list[dict[str, Any]] = []
    for (layer, head), found in texts.items():
        part = terms.heads[:, layer, head]
        row: dict[str, Any] = {"layer": layer, "head": head}
        if several:
            row["spread"] = float((part - part.mean(0)).square().sum() / spread.clamp_min(1e-12))
        row["texts"] = [{"text": t, "explained" if several else "score": value} for t, value in found]
        rows.append(row)
    facts: dict[str, Any] = {"layers": list(span.layers), "heads": rows}
    if text is not None:
        w = span.vectors([text])[0]
        for row in rows:
            row["adds"] = float(mean.heads[0, row["layer"], row["head"]] @ w)
        rows.sort(key=lambda row: -row["adds"])
        facts |= {
            "text": text,
            "cosine": float((terms.embedding @ w).mean()),
            "earlier_heads": float((mean.heads[0, : span.layers[0]] @ w).sum()),
            "mlps": float((mean.mlp[0] @ w).sum()),
        }
    elif several:
        rows.sort(key=lambda row: -row["spread"])
    return facts


def _show(facts: dict[str, Any], text: str | None) -> None:
    from rich.table import Table
    from rich.text import Text

    several = facts["images"] > 1
    table = Table(box=None, pad_edge=False)
    table.add_column("layer", justify="right")
    table.add_column("head", justify="right")
    if text is not None:
        table.add_column("adds", justify="right")
    if several:
        table.add_column("spread", justify="right")
    table.add_column("says (share of what varies in it)" if several else "says of this picture")
    for row in facts["heads"]:
        cells: list[Any] = [str(row["layer"]), str(row["head"])]
        cells += [f"{row['adds']:+.4f}"] if text is not None else []
        cells += [f"{row['spread']:.1%}"] if several else []
        said = [f"{t['text']} {t['explained']:.0%}" if several else t["text"] for t in row["texts"]]
        table.add_row(*cells, Text(printable(", ".join(said))))
    console.print(table)
    if text is not None:
        above = sum(row["adds"] for row in facts["heads"])
        parts = f"heads above {above:+.4f}, earlier heads {facts['earlier_heads']:+.4f}, MLPs {facts['mlps']:+.4f}"
        console.print(f"cosine {facts['cosine']:.4f} with {printable(text)!r}: {parts}", markup=False)
    note(f"{facts['images']:,} picture{'s' if several else ''}; layers and heads are counted from 0")


def _load(model: str) -> CLIP:
    from binderclip.hub import load

    clip = load(model).eval()
    if clip.preprocess is None:
        raise InputError(f"{clip.name} does not say how pictures are prepared for it")
    return clip


def _sources(things: list[str]) -> tuple[list[str], str | None]:
    """Pictures, folders and tables; and the text, which is a last argument that is none of them and looks like none."""
    last, text = things[-1], None
    named = re.fullmatch(r"\.\w{2,7}", Path(last).suffix) or (os.sep in last and " " not in last)
    if len(things) > 1 and not _is_source(last) and not named:
        text, things = last, things[:-1]
        if not text.strip():
            raise InputError("there is no text to explain: write what you look for")
    lost = next((thing for thing in things if not _is_source(thing)), None)
    if lost is not None:
        raise InputError(f"{lost!r} is no picture, folder or table that is there: check the path")
    return things, text


def _is_source(thing: str) -> bool:
    return thing.startswith("scenes:") or os.path.exists(thing)


class _Seen:
    """The first pictures of all sources as the tower sees them, 8 bits; a slice is their normalised pixels.

    Those that cannot be read are left out, with a warning.
    """

    def __init__(self, clip: CLIP, sources: list[str], most: int) -> None:
        self.clip, self.rows = clip, list[Any]()
        for image, name in _media(sources):
            if len(self.rows) == most:
                note(f"the first {most:,} pictures are looked at; more with --most")
                break
            self._add(image, name)
        if not self.rows:
            raise InputError(
                "no picture can be read: name pictures, a folder of them or a table with a column of pictures"
            )

    def _add(self, image: Any, name: str) -> None:
        from binderclip.data.media import open_image

        assert self.clip.preprocess is not None
        try:
            self.rows.append(self.clip.preprocess(open_image(image).image))
        except MediaError as error:
            warn(f"{printable(name)}: {error}")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> Tensor:
        import numpy as np
        import torch

        assert self.clip.preprocess is not None
        return torch.from_numpy(self.clip.preprocess.normalize(np.stack(self.rows[part])))


def _media(sources: list[str]) -> Iterator[tuple[Any, str]]:
    """Every picture, not decoded, and its name."""
    from binderclip.data.pairs import Pairs

    for source in sources:
        if os.path.isfile(source) and Path(source).suffix.lower() not in _TABLES:
            yield source, source
            continue
        for pair in Pairs.open(os.path.abspath(source) if os.path.exists(source) else source):
            if pair.image is not None:
                yield pair.image, pair.id


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text ({error}): give one description a line") from None
    if not lines:
        raise InputError(f"{path} holds no descriptions: give one a line")
    return lines
