"""`binderclip adapt`: make a model better at your own classes from a folder of folders, and use what came of it."""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from binderclip.cli.console import console, emit_json, err, note, warn
from binderclip.cli.pictures import pictures_of
from binderclip.cli.results import JSON, printable
from binderclip.errors import BinderclipError, InputError

if TYPE_CHECKING:
    from binderclip.adapt.base import Adapter
    from binderclip.data.pairs import RowPairs

__all__ = ["adapt_app"]

FIT = """Examples:

binderclip adapt fit ./photos --shots 16 --out pets.safetensors

binderclip adapt fit ./photos --method tip_adapter --set keys=unit --json

binderclip adapt fit ./photos --method gda --set covariance=oas --set n_views=4

binderclip adapt fit ./photos --method coop --shots 8 --set "ctx_init=a photo of a"

binderclip adapt fit ./photos --method maple --shots 16 --model pocket-vit --out pets.safetensors"""

PREDICT = """Examples:

binderclip adapt predict pets.safetensors ./new-photos

binderclip adapt predict pets.safetensors img.jpg --top 3 --json

binderclip adapt predict --method tpt --labels "cat,dog,sofa" img.jpg"""

adapt_app = typer.Typer(
    no_args_is_help=True,
    help="Make a model better at your own classes, from few pictures of each.",
    epilog="Example: binderclip adapt fit ./photos --shots 16 --out pets.safetensors",
)


@adapt_app.command("fit", epilog=FIT)
def fit(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of folders: one of pictures for each class.")],
    method: Annotated[
        str, typer.Option("--method", metavar="NAME", help="As `methods list --room adapt` has it.")
    ] = "gda",
    shots: Annotated[
        int | None, typer.Option("--shots", "-k", min=1, help="Pictures of each class to learn from; all by default.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Keep what was learnt there (.safetensors).")
    ] = None,
    options: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="An option of the method. Repeatable.")
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option("--template", "-t", help="A sentence with {} for the name, or a named set. Repeatable."),
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", envvar="BINDERCLIP_MODEL", help="Model.")] = "pocket",
    seed: Annotated[int, typer.Option("--seed", help="Of the shots, the views and the held-out pictures.")] = 0,
    as_json: JSON = False,
) -> int:
    """Learn classes from class folders; a fifth of the pictures is held out and tells what was gained over zero-shot."""
    import numpy as np

    from binderclip.adapt.heads import adapter_class, save_head
    from binderclip.adapt.held_out import held_out
    from binderclip.adapt.splits import split
    from binderclip.engine import Encoder

    kind, path = adapter_class(method), None if out is None else _target(out)
    given = _options(kind, method, options or ())
    pairs, ids, y = _open(folder)
    learn, aside, test = split(ids, y, shots=shots, seed=seed)
    if not kind.validates:  # nothing is chosen on them: they are as good as the others to learn from
        learn, aside = (learn if shots else np.sort(np.concatenate([learn, aside]))), aside[:0]
    encoder: Any = Encoder(model)
    if template:
        given["templates"] = template[0] if len(template) == 1 else tuple(template)
    with _telling(f"encoding {len(learn) + len(aside) + len(test):,} pictures") as tell:
        made = kind(encoder, pairs.classes, seed=seed, **given)
        made.on_progress = lambda done, total: tell(f"learning, step {done:,} of {total:,}")
        _learn(made, pairs, learn, aside)
        facts = held_out(made, pairs, test)
    facts |= {
        "method": method,
        "model": model,
        "classes": list(pairs.classes),
        "shots": shots,
        "learnt_from": len(learn),
    }
    facts |= {"validation": len(aside), "chosen": made.hyper_, "head": None if path is None else str(path)}
    if path is not None:
        save_head(path, made, method, {key: facts[key] for key in ("accuracy", "zero_shot", "held_out", "learnt_from")})
    if as_json:
        emit_json(facts)
    else:
        _show_fit(facts)
    return 0


@adapt_app.command("predict", epilog=PREDICT)
def predict(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="[HEAD] PATH...",
            help="A file that `adapt fit --out` wrote (not with --method), then pictures and folders of pictures.",
        ),
    ],
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="How many classes to show for each picture.")] = 1,
    method: Annotated[
        str | None, typer.Option("--method", metavar="NAME", help="A method that needs no fit, as tpt, with --labels.")
    ] = None,
    labels: Annotated[str | None, typer.Option("--labels", "-l", help="Names of the classes, by commas.")] = None,
    options: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="An option of the method. Repeatable.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Where the head's model is now, or with --method which; pocket by default."),
    ] = None,
    as_json: JSON = False,
) -> int:
    """Name what pictures show: with the classes of a head, or of --labels by a method that needs no fit."""
    from binderclip.adapt.parts import softmax

    made, sources = _ready(paths, method, labels, options or (), model)
    files = pictures_of(sources)
    if method is not None and hasattr(made, "cost"):
        note(made.cost)
    with _telling(f"encoding {len(files):,} pictures"):
        logits, kept, lost = made.decide(files, files)
    for path, reason in lost:
        warn(printable(reason if reason.startswith(path) else f"{path}: {reason}"))
    if not kept:
        raise InputError("no picture could be read")
    if lost:
        note(f"{len(lost)} could not be read, {len(kept)} classified")
    rows = [
        {"path": files[i], "classes": _ranked(p, made.classes, top)}
        for i, p in zip(kept, softmax(logits.astype(float)), strict=True)
    ]
    if as_json:
        emit_json(rows)
    else:
        _show_rows(rows)
    return 0


def _ready(
    paths: Sequence[Path], method: str | None, labels: str | None, options: Sequence[str], model: str | None
) -> tuple[Adapter, Sequence[Path]]:
    """An adapter that can answer, and the paths of pictures."""
    from binderclip.adapt.heads import adapter_class, load_head
    from binderclip.engine import Encoder

    if method is None:
        if labels is not None or options:
            raise InputError("--labels and --set go with --method: a head knows its own classes and options")
        found = load_head(paths[0])
        if len(paths) < 2:
            raise InputError(f"name pictures behind the head: binderclip adapt predict {paths[0]} PATH")
        return found.adapter(Encoder(model or found.model)), paths[1:]
    kind = adapter_class(method)
    if kind.learned and kind.takes != "stream":
        raise InputError(f"{method} learns before it answers: binderclip adapt fit DIR --method {method} --out FILE")
    names = [name.strip() for name in (labels or "").split(",") if name.strip()]
    if not names:
        raise InputError(f"{method} asks for names of classes: --labels 'cat,dog,sofa'")
    given = _options(kind, method, options)
    return _fitted(kind(Encoder(model or "pocket"), names, **given)), paths


def _fitted(made: Adapter) -> Adapter:
    """Without pictures."""
    try:
        return made.fit()
    except BinderclipError:
        raise
    except (TypeError, ValueError, IndexError) as error:
        raise InputError(f"{type(made).__name__} cannot work with its options ({error}): check --set") from error


def _target(out: Path) -> Path:
    path = out if out.suffix == ".safetensors" else out.with_name(out.name + ".safetensors")
    if path.exists():
        raise InputError(f"{path} is there already: choose another --out, or move it away")
    if not path.parent.is_dir():
        raise InputError(f"the folder of {path} is not there: make it first")
    return path


def _options(kind: type[Adapter], method: str, texts: Sequence[str]) -> dict[str, Any]:
    """`name=value` by the constructor's signature; JSON where it is JSON, a string otherwise."""
    from binderclip.adapt.heads import options_of

    known, given = options_of(kind), {}
    for text in texts:
        name, mark, value = text.partition("=")
        if not mark or not re.fullmatch(r"\w+", name):
            raise InputError(f"--set {text!r} is not understood: write it as alpha=0.5")
        if name not in known:
            has = ", ".join(f"{key}={default}" for key, default in known.items()) or "none"
            raise InputError(f"{method} has no option {name!r}: it has {has}")
        try:
            made = json.loads(value)
        except ValueError:
            made = value
        given[name] = tuple(made) if isinstance(made, list) else made
    return given


def _open(folder: Path) -> tuple[RowPairs, list[str], list[int]]:
    """The pictures in class folders, their ids (paths below DIR) and classes."""
    from binderclip.data.pairs import Bad, Pairs, RowPairs
    from binderclip.data.subset import Subset

    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: name a folder that holds a folder of pictures for each class")
    pairs = Pairs.open(folder, kind="classes")
    assert isinstance(pairs, RowPairs)
    rows = [(i, pairs.row(i)) for i in range(pairs.rows)]
    good = [(i, row) for i, row in rows if not isinstance(row, Bad) and row.image is not None and row.label is not None]
    if len(good) < len(rows):
        note(f"note: {len(rows) - len(good)} files are in no class folder or no pictures, and are left out")
    named = {pairs.label_name(row.label) for _, row in good if row.label is not None}
    if len(named) < 2:
        raise InputError(f"{folder} has pictures of {len(named)} classes: give at least two folders of pictures")
    kept = Subset(pairs, [i for i, _ in good])
    kept.classes = tuple(name for name in pairs.classes if name in named)
    numbers = [kept.label_number(pairs.label_name(row.label)) for _, row in good if row.label is not None]
    return kept, [row.id for _, row in good], numbers


def _learn(made: Adapter, pairs: RowPairs, learn: Any, aside: Any) -> None:
    from binderclip.data.subset import Subset

    validation = Subset(pairs, [int(i) for i in aside]) if len(aside) else None
    try:
        made.fit(Subset(pairs, [int(i) for i in learn]), X_val=validation)
    except BinderclipError:
        raise
    except (TypeError, ValueError, IndexError) as error:
        raise InputError(f"{type(made).__name__} cannot work with its options ({error}): check --set") from error


def _ranked(chances: Any, names: Sequence[str], top: int) -> list[dict[str, Any]]:
    order = (-chances).argsort(kind="stable")[:top]
    return [{"label": names[int(i)], "probability": float(chances[i])} for i in order]


@contextmanager
def _telling(text: str) -> Iterator[Callable[[str], None]]:
    """A status line on a terminal, which may be changed; what is warned of meanwhile is told once, a line each."""
    status = err.status(text) if err.is_terminal else None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        if status:
            status.start()
        try:
            yield status.update if status else lambda text: None
        finally:
            if status:
                status.stop()
    for message in dict.fromkeys(str(one.message) for one in caught if issubclass(one.category, UserWarning)):
        warn(message)


def _show_fit(facts: dict[str, Any]) -> None:
    from rich.table import Table

    if facts["held_out"]:
        table = Table(box=None, pad_edge=False)
        for name in ("method", "accuracy", "held-out pictures"):
            table.add_column(name, justify="left" if name == "method" else "right")
        table.add_row("zero-shot", f"{facts['zero_shot']:.1%}", f"{facts['held_out']:,}")
        table.add_row(facts["method"], f"{facts['accuracy']:.1%}", f"{facts['held_out']:,}", style="bold")
        sys.stdout.flush()
        console.print(table)
    else:
        note("too few pictures to hold any out: nothing was measured")
    chosen = ", ".join(f"{name} = {value:g}" for name, value in facts["chosen"].items())
    how = f"chosen on {facts['validation']:,} others" if facts["validation"] else "without a validation set"
    learnt = f"learnt {len(facts['classes'])} classes from {facts['learnt_from']:,} pictures"
    note(learnt + (f"; {chosen}, {how}" if chosen else ""))
    if facts["head"]:
        console.print(f"head: {facts['head']}    use it: binderclip adapt predict {facts['head']} PATH", markup=False)


def _show_rows(rows: Sequence[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("probability", justify="right")
    table.add_column("label", style="bold")
    table.add_column("path", overflow="fold")
    for row in rows:
        for place, one in enumerate(row["classes"]):
            label = printable(one["label"])
            table.add_row(f"{one['probability']:.0%}", label, printable(row["path"]) if place == 0 else "")
    sys.stdout.flush()
    console.print(table)
