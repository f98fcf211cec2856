"""`binderclip caption`: what a picture shows, in a sentence; and a captioner of your own from pictures with captions."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from binderclip.cli.console import console, emit_json, err, note, warn
from binderclip.cli.index import DefaultGroup
from binderclip.cli.options import method_options
from binderclip.cli.pictures import pictures_of
from binderclip.cli.results import JSON, printable
from binderclip.errors import InputError, MediaError

__all__ = ["caption_app"]

WRITE = """Examples:

binderclip caption ./photos --captioner ./captioner

binderclip caption photo.jpg --captioner ./captioner --beam 1 --penalty 1.2 --window 16 --json

First make one: binderclip caption train captions.csv --out ./captioner"""

TRAIN = """Examples:

binderclip caption train captions.csv --out ./captioner

binderclip caption train ./photos --lm gpt2 --set freeze_lm=true --set mapper=transformer --out ./captioner

binderclip caption train 'shards/{00000..00012}.tar' --lm ./my-lm --set epochs=3 --out ./captioner --json"""


class _Group(DefaultGroup):
    default = "write"


caption_app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    help="Say in a sentence what pictures show, with a captioner that you trained.",
    epilog=WRITE,
)


@caption_app.command("write", epilog=WRITE)
def write(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Pictures and folders of pictures.")],
    captioner: Annotated[
        Path, typer.Option("--captioner", "-c", metavar="DIR", help="What `caption train` wrote.")
    ] = Path("captioner"),
    beam: Annotated[int, typer.Option("--beam", min=1, help="Width of the beam; 1 is greedy.")] = 5,
    longest: Annotated[int, typer.Option("--longest", min=1, help="Most tokens of a caption.")] = 40,
    penalty: Annotated[
        float, typer.Option("--penalty", min=1, help="Of repetition (penalty decoding); 1 is none.")
    ] = 1.0,
    window: Annotated[int, typer.Option("--window", min=1, help="Tokens after which a word is forgotten.")] = 16,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model of the vectors; the captioner's own by default.")
    ] = None,
    as_json: JSON = False,
) -> int:
    """Caption pictures (the word `write` may be left out). Needs the extras `torch` and `hf`."""
    files = pictures_of(images)
    from binderclip.caption.clipcap import ClipCap
    from binderclip.caption.penalty_decoding import PenaltyDecoding
    from binderclip.engine import Encoder

    with err.status("loading"):
        made = ClipCap.load(captioner)
        encoder: Any = Encoder(model or str(made.about.get("model", "pocket")))
    rows = []
    assert made.lm is not None
    steer = [PenaltyDecoding(penalty, window, eos_id=made.lm.eos_id)] if penalty > 1 else []
    with err.status("captioning") as status:
        for i, path in enumerate(files):
            status.update(f"{i + 1} of {len(files)}: {printable(path)}")
            try:
                vector = encoder.encode_image([path])
            except MediaError as error:
                warn(printable(str(error) if str(error).startswith(path) else f"{path}: {error}"))
                continue
            [text] = made.caption(vector, beam=beam, max_new_tokens=longest, processors=steer)
            rows.append({"image": path, "caption": text})
    if not rows:
        raise InputError("no picture could be read")
    if as_json:
        emit_json(rows)
    else:
        sys.stdout.flush()
        for row in rows:
            console.print(f"{printable(row['image'])}: {printable(row['caption'])}", markup=False, highlight=False)
    return 0


@caption_app.command("train", epilog=TRAIN)
def train(
    pairs: Annotated[
        list[str], typer.Argument(metavar="PAIRS...", help="Pictures with captions: a table, a folder, shards.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the captioner.")],
    method: Annotated[
        str, typer.Option("--method", metavar="NAME", help="As `methods list --room caption` has it.")
    ] = "clipcap",
    lm: Annotated[
        str, typer.Option("--lm", help="Language model: a name, a folder, or 'tiny' for one of your captions.")
    ] = "tiny",
    model: Annotated[str, typer.Option("--model", "-m", envvar="BINDERCLIP_MODEL", help="Model.")] = "pocket",
    options: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="An option of the method. Repeatable.")
    ] = None,
    as_json: JSON = False,
) -> int:
    """Learn to caption from pictures with captions; every picture is encoded once."""
    from binderclip.cards import find, load_method
    from binderclip.data.pairs import Pairs
    from binderclip.engine import Encoder

    card = find(method)
    if card.kind != "Captioner":
        raise InputError(f"{card.slug} is no captioner: `binderclip methods list --room caption` shows them")
    if out.exists():
        raise InputError(f"{out} is there already: choose another --out, or move it away")
    kind = load_method(card.slug)
    given = method_options(kind, card.slug, options or ())
    rows = [row for row in Pairs.open(pairs if len(pairs) > 1 else pairs[0]) if row.image is not None and row.captions]
    if not rows:
        raise InputError(f"no pictures with captions in {', '.join(pairs)}: name a table with columns path and caption")
    encoder: Any = Encoder(model)
    vectors, captions = _encoded(encoder, rows)
    made = kind(lm, **given)
    made.about = {"model": model, "fingerprint": encoder.fingerprint}
    losses: list[float] = []
    with err.status("training") as status:

        def tell(step: int, total: int, loss: float) -> None:
            losses.append(loss)
            status.update(f"step {step:,} of {total:,}, loss {loss:.2f}")

        made.fit(vectors, captions, on_step=tell)
    made.save(out)
    facts = {"captioner": str(out), "pictures": len(captions), "captions": sum(map(len, captions)), "loss": losses[-1]}
    if as_json:
        emit_json(facts | {"method": card.slug, "model": model, "steps": len(losses)})
    else:
        note(f"learnt from {facts['captions']:,} captions of {len(captions):,} pictures; loss {losses[-1]:.2f}")
        console.print(f"captioner: {out}    use it: binderclip caption PATH --captioner {out}", markup=False)
    return 0


def _encoded(encoder: Any, rows: Sequence[Any]) -> tuple[Any, list[list[str]]]:
    import numpy as np

    vectors: list[Any] = []
    captions: list[list[str]] = []
    lost: list[str] = []
    with err.status("encoding") as status:
        for start in range(0, len(rows), 64):
            part = rows[start : start + 64]
            status.update(f"encoding {start + len(part):,} of {len(rows):,} pictures")
            try:
                found = list(encoder.encode_image([row.image for row in part]))
            except MediaError:  # one of them is bad: find out which
                found = [_one(encoder, row, lost) for row in part]
            for row, vector in zip(part, found, strict=True):
                if vector is not None:
                    vectors.append(vector)
                    captions.append(list(row.captions))
    if lost:
        note(f"note: {len(lost)} pictures could not be read, the first: {printable(lost[0])}")
    if not vectors:
        raise InputError("no picture could be read")
    return np.stack(vectors), captions


def _one(encoder: Any, row: Any, lost: list[str]) -> Any:
    try:
        return encoder.encode_image([row.image])[0]
    except MediaError as error:
        lost.append(f"{row.id}: {error}")
        return None
