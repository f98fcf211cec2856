"""`binderclip classify`: which of the user's words fits each picture best."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from binderclip.cli.console import console, emit_json, err, note, warn
from binderclip.cli.results import ENGINE, JSON, printable
from binderclip.errors import InputError

if TYPE_CHECKING:
    from binderclip.engine.encoder import Encoder

__all__ = ["EPILOG", "classify"]

EPILOG = """Examples:

binderclip classify ./photos --labels "cat,dog,car|automobile"

binderclip classify img.jpg --labels classes.txt --template "a sketch of a {}." --top 3

binderclip classify ./photos --labels classes.txt --csv out.csv"""

BATCH = 64


def classify(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Pictures and folders of pictures.")],
    labels: Annotated[
        str,
        typer.Option(
            "--labels",
            "-l",
            help="Class names with commas between (synonyms: car|automobile), or a text file of one a line.",
        ),
    ],
    template: Annotated[
        list[str] | None,
        typer.Option("--template", "-t", help="A sentence with {} for the name, or a named set. Repeatable."),
    ] = None,
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="How many classes to show for each picture.")] = 1,
    model: Annotated[str, typer.Option("--model", "-m", envvar="BINDERCLIP_MODEL", help="Model.")] = "pocket",
    engine: ENGINE = None,
    out: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write every class of every picture there.")
    ] = None,
    as_json: JSON = False,
) -> int:
    """Name what pictures show, with words of your own and no training."""
    names = read_labels(labels)
    from binderclip.data.templates import class_vectors
    from binderclip.engine import Encoder
    from binderclip.search.types import FloatArray

    encoder = Encoder(model, engine=engine)
    weights: FloatArray = class_vectors(encoder, names, _templates(template))  # [T, D]
    scale = encoder.logit_scale
    rows, bad = [], 0
    for path, vector, reason in _encode(encoder, paths):
        if vector is None:
            bad += 1
            warn(f"{printable(path)}: {reason}")
            continue
        rows.append({"path": path, "classes": rank(weights @ vector, names, scale)})
    if out is not None:
        _write_csv(out, rows)
        note(f"written: {out}")
    if bad:
        note(f"{bad} could not be read, {len(rows)} classified")
    if not rows:
        raise InputError("no picture could be read" if bad else "no pictures there: name a picture or a folder of them")
    if as_json:
        emit_json([row | {"classes": row["classes"][:top]} for row in rows])
    else:
        _show(rows, top)
    return 0


def rank(cosines: Any, names: Sequence[str], scale: float) -> list[dict[str, Any]]:
    """Classes of one picture, best first: label, score (cosine) and probability (softmax of ``scale * cosine``)."""
    import numpy as np

    logits = scale * np.asarray(cosines, dtype=np.float64)
    chances = np.exp(logits - logits.max())
    chances /= chances.sum()
    order = np.argsort(-logits, kind="stable")
    return [{"label": names[i], "score": float(cosines[i]), "probability": float(chances[i])} for i in order]


def read_labels(text: str) -> list[str]:
    """Class names from ``a,b,c``, or from a file with one a line.

    Raises:
        InputError: no names, an empty or a double one, or a file that is no text.
    """
    from binderclip.data.templates import check_names

    path = Path(text)
    if "," not in text and path.suffix in (".txt", ".csv", ".json") and not path.is_file():
        raise InputError(f"no such file of labels: {text}")
    if "," not in text and path.is_file():
        try:
            content = path.read_text(encoding="utf-8")
            names = json.loads(content) if path.suffix == ".json" else content.splitlines()
        except (OSError, ValueError) as error:
            raise InputError(f"{text} is no text file of labels ({error})") from None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{text} must hold a list of strings")
        names = [name.strip() for name in names if name.strip()]
    else:
        names = [name.strip() for name in text.split(",")]
    check_names(names)
    return names


def _templates(given: list[str] | None) -> str | list[str]:
    if not given:
        return "photos"
    return given[0] if len(given) == 1 else given


def _encode(encoder: Encoder, paths: Sequence[Path]) -> Iterator[tuple[str, Any, str]]:
    """Path, vector and (where it could not be read) why, in the order of the walk."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    from binderclip.data.media import IMAGE_SUFFIXES, OPTIONAL_SUFFIXES, open_image
    from binderclip.errors import BinderclipError
    from binderclip.search.scan import scan

    found = scan(paths, IMAGE_SUFFIXES, OPTIONAL_SUFFIXES)
    for absent in found.absent:
        raise InputError(f"no such file or folder: {os.fsdecode(absent)}")
    files = [os.fsdecode(file.path) for file in found.files]

    def load(path: str) -> tuple[Any, str]:
        try:
            return encoder.pixels(open_image(path, min_side=encoder.min_side).image), ""
        except BinderclipError as error:
            return None, str(error)

    status = err.status("classifying") if err.is_terminal else None
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for start in range(0, len(files), BATCH):
            part = files[start : start + BATCH]
            loaded = list(pool.map(load, part))
            good = [pixels for pixels, _ in loaded if pixels is not None]
            vectors: Iterator[Any] = iter(encoder.encode_pixels(np.stack(good)) if good else ())
            for path, (pixels, reason) in zip(part, loaded, strict=True):
                yield path, None if pixels is None else next(vectors), reason
            if status:
                status.start()
                status.update(f"{min(start + BATCH, len(files)):,} of {len(files):,} pictures")
    if status:
        status.stop()


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    import io

    from binderclip.data.files import write_whole

    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["path", "rank", "label", "score", "probability"])
    for row in rows:
        for place, one in enumerate(row["classes"], 1):
            writer.writerow([row["path"], place, one["label"], f"{one['score']:.6f}", f"{one['probability']:.6f}"])
    write_whole(path, text.getvalue().encode("utf-8", "surrogateescape"))


def _show(rows: Sequence[dict[str, Any]], top: int) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("probability", justify="right")
    table.add_column("label", style="bold")
    table.add_column("path", overflow="fold")
    for row in rows:
        for place, one in enumerate(row["classes"][:top]):
            table.add_row(f"{one['probability']:.0%}", one["label"], printable(row["path"]) if place == 0 else "")
    sys.stdout.flush()
    console.print(table)
