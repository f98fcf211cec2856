"""`binderclip evaluate`: how good a model is on your own data, by any number of probes."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from binderclip.cli.classify import read_labels
from binderclip.cli.console import console, emit_json, err, note
from binderclip.cli.results import JSON, printable
from binderclip.errors import BinderclipError, InputError

if TYPE_CHECKING:
    from binderclip.evaluate.base import Probe, Report
    from binderclip.evaluate.data import Dataset, Item, Sets

__all__ = ["EPILOG", "evaluate"]

EPILOG = """Examples:

binderclip evaluate pocket --data ./photos --html report.html

binderclip evaluate pocket ./my-checkpoint --data test.csv --train train.csv --probe zero-shot,knn,linear-probe --out results

binderclip evaluate pocket --data captions.jsonl --probe retrieval --json

binderclip evaluate pocket --data ./photos --labels classes.txt --outliers ./other --probe ood,calibration

binderclip evaluate A B --data ./photos --outliers ./other --probe robustness-suite --option robustness-suite.cache=.cache

binderclip evaluate pocket --data people.parquet --probe harm-audit --option harm-audit.labels=labels.yaml

binderclip evaluate pocket --data ./photos --probe qualiclip --option qualiclip.least=0.5"""

_SHOWN = 12  # numbers of a probe on the terminal; the files hold all


def evaluate(
    models: Annotated[list[str] | None, typer.Argument(metavar="MODEL...", help="Models; pocket by default.")] = None,
    data: Annotated[
        str,
        typer.Option("--data", "-d", metavar="PATH", help="Class folders, a table (path, label or caption), shards."),
    ] = "",
    probe: Annotated[
        list[str] | None,
        typer.Option(
            "--probe", "-p", metavar="NAMES", help="Probes with commas between; what the data allow by default."
        ),
    ] = None,
    labels: Annotated[
        str | None, typer.Option("--labels", "-l", help="Class names with commas between, or a file of one a line.")
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option("--template", "-t", help="A sentence with {} for the name, or a named set. Repeatable."),
    ] = None,
    train: Annotated[
        str | None, typer.Option("--train", metavar="PATH", help="What knn and linear-probe learn from.")
    ] = None,
    validation: Annotated[
        str | None, typer.Option("--validation", metavar="PATH", help="What linear-probe chooses its weight decay on.")
    ] = None,
    outliers: Annotated[
        str | None, typer.Option("--outliers", metavar="PATH", help="Pictures of none of the classes, for ood.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", metavar="PROBE.NAME=VALUE", help="A setting of a probe. Repeatable.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Keep results there; unchanged ones are not made again."),
    ] = None,
    page: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a report with charts.")] = None,
    beside: Annotated[
        list[Path] | None,
        typer.Option("--beside", metavar="FILE", help="A result of CLIP_benchmark or of ours to show too. Repeatable."),
    ] = None,
    as_json: JSON = False,
) -> int:
    """Measure models on your own data: numbers with n and an interval, a row an item, a report to show."""
    if not data:
        raise InputError("name the data to measure on, as in: binderclip evaluate pocket --data ./photos")
    extra = [_read_report(path) for path in beside or ()]
    names = read_labels(labels) if labels else None
    sets = _open_sets(data, names, train, validation, outliers)
    probes = _probes(_wanted(probe, sets), template, option or ())
    reports = [
        report for model in models or ["pocket"] for report in _measure(model, sets, probes, out, changed=bool(option))
    ] + extra
    if out is not None:
        _write_tables(out, reports)
        note(f"written: {out}")
    if page is not None:
        from binderclip.evaluate.page import write_page

        note(f"written: {write_page(page, f'{sets.test.name}: evaluation', reports, _items(sets))}")
    if as_json:
        emit_json([_brief(report) for report in reports])
    else:
        _show(reports)
    return 0


def _open_sets(
    data: str, names: list[str] | None, train: str | None, validation: str | None, outliers: str | None
) -> Sets:
    """The data; a folder with `train` and `test` (or `val`) in it brings its own training set, shards may be in `test`."""
    from binderclip.evaluate.data import Sets
    from binderclip.evaluate.reading import open_dataset

    place = Path(data)
    brings = train is None and (place / "train").is_dir()
    parts = [part for part in ("test", "val", "validation") if (place / part).is_dir()]
    split = next((part for part in parts if brings or any((place / part).glob("*.tar"))), None)
    test = open_dataset(data, classes=names, split=split)
    if place.exists():
        test = replace(test, name=place.resolve().name if place.is_dir() else place.stem)
    classes = list(test.classes) or None

    def learn(source: str | None, part: str | None = None) -> Dataset | None:
        return None if source is None else open_dataset(source, classes=classes, split=part)

    known = learn(data, "train") if split and brings else learn(train)
    strange = None if outliers is None else open_dataset(outliers)
    if strange is not None:  # their ids must not be taken for those of the data
        strange = replace(strange, items=tuple(replace(i, id=f"outliers/{i.id}") for i in strange.items))
    return Sets(test, known, learn(validation), strange)


def _wanted(given: Sequence[str] | None, sets: Sets) -> list[str]:
    """The probes that were asked for, or those that the data allow."""
    asked = [name.strip() for text in given or () for name in text.split(",") if name.strip()]
    if asked:
        return list(dict.fromkeys(asked))
    test, found = sets.test, []
    if any(item.labels for item in test.items) and test.named:
        found += ["zero-shot"] if test.many_labels else ["zero-shot", "calibration"]
    if any(item.captions for item in test.items):
        found += ["retrieval", "clipscore"]
    if found:
        found.append("modality-gap")
    if any(item.negatives or item.group for item in test.items):
        found.append("compositional")
    if sets.train is not None:
        found += ["knn", "linear-probe"]
    if sets.outliers is not None:
        found.append("ood")
    if not found:
        raise InputError(
            f"{test.name} has neither class names nor captions: give a folder of class folders, "
            "or a table with a column of labels or captions"
        )
    return found


def _probes(names: Sequence[str], template: list[str] | None, options: Sequence[str]) -> list[Probe]:
    from binderclip.evaluate.probes import load

    settings: dict[str, dict[str, Any]] = {}
    for text in options:
        found = re.fullmatch(r"([\w-]+)\.(\w+)=(.*)", text, re.DOTALL)
        if not found:
            raise InputError(f"--option {text!r} is not understood: write it as knn.k=10")
        settings.setdefault(found[1].replace("_", "-"), {})[found[2]] = _value(found[3])
    wanted = [name.lower().replace("_", "-") for name in names]
    stray = sorted(set(settings) - set(wanted))
    if stray:
        raise InputError(f"--option names {stray[0]!r}, which is not among the probes: {', '.join(wanted)}")
    made = []
    for name in wanted:
        probe = load(name)
        own = settings.get(name, {})
        unknown = sorted(set(own) - set(vars(probe)))
        if unknown:
            raise InputError(f"{name} has no option {unknown[0]!r}: it has {', '.join(vars(probe))}")
        if template and "templates" in vars(probe):
            own = {"templates": template[0] if len(template) == 1 else tuple(template)} | own
        made.append(load(name, **own))
    return made


def _value(text: str) -> Any:
    """JSON where it is JSON, a string otherwise; lists become tuples."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return tuple(value) if isinstance(value, list) else value


def _measure(model: str, sets: Sets, probes: Sequence[Probe], out: Path | None, *, changed: bool) -> list[Report]:
    from binderclip.engine import Encoder
    from binderclip.evaluate.probes import name_of
    from binderclip.evaluate.store import Store
    from binderclip.evaluate.store import evaluate as run
    from binderclip.evaluate.vectors import Vectors

    status = err.status(f"{model}: loading") if err.is_terminal else None
    if status:
        status.start()
    at, last = "pictures", time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        text = f"{model}: {at}, {done:,} of {total:,}"
        if status:
            status.update(text)
        elif time.monotonic() - last > 10:
            last = time.monotonic()
            note(text)

    try:
        vectors = Vectors(Encoder(model), on_progress=progress)
        reports = []
        for probe in probes:
            at = name_of(probe).replace("_", "-")
            progress(0, len(sets.test))
            try:
                reports.append(run(vectors, sets, probe, Store(out / "results") if out is not None else None))
            except BinderclipError:
                raise
            except (TypeError, ValueError, IndexError, ZeroDivisionError) as error:
                if not changed:
                    raise  # no option of the user's is to blame
                raise InputError(f"{at} cannot work with its options ({error}): check --option") from error
        return reports
    finally:
        if status:
            status.stop()


def _read_report(path: Path) -> Report:
    from binderclip.evaluate.base import Report

    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error})") from None
    try:
        return (
            Report.from_json(value)
            if isinstance(value, dict) and "format" in value
            else Report.from_clip_benchmark(value)
        )
    except BinderclipError as error:
        raise InputError(f"{path}: {error}") from None


def _write_tables(out: Path, reports: Sequence[Report]) -> None:
    """Beside the results: all numbers, the items of each report, and CLIP_benchmark's JSON."""
    from binderclip.data.files import write_whole
    from binderclip.evaluate.page import metrics_csv

    try:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / "numbers.csv", metrics_csv(reports).encode("utf-8", "surrogateescape"))
        for report in reports:
            stem = re.sub(r"[^\w.-]+", "_", f"{report.probe}-{report.model}").strip(".")
            (out / "items").mkdir(exist_ok=True)
            (out / "clip_benchmark").mkdir(exist_ok=True)
            if report.rows:
                write_whole(out / "items" / f"{stem}.csv", report.rows_csv().encode("utf-8", "surrogateescape"))
            if report.standard:
                text = json.dumps(report.clip_benchmark(), indent=1)
                write_whole(out / "clip_benchmark" / f"{stem}.json", text.encode())
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror or error}): choose another folder") from None


def _items(sets: Sets) -> Mapping[str, Item]:
    return {item.id: item for part in reversed(list(sets.parts().values())) for item in part.items}


def _brief(report: Report) -> dict[str, Any]:
    """A report without its rows and charts; `--out` keeps those."""
    whole = report.to_json()
    return {key: whole[key] for key in ("probe", "model", "data", "metrics", "notes", "settings", "standard")}


def _show(reports: Sequence[Report]) -> None:
    from rich.table import Table
    from rich.text import Text

    from binderclip.evaluate.page import shown

    sys.stdout.flush()
    for report in reports:
        title = f"{report.probe.replace('_', '-')}: {printable(report.model)} on {printable(report.data)}"
        table = Table(title=Text(title), title_justify="left", title_style="bold", box=None, pad_edge=False)
        for name in ("number", "value", "95 % interval", "n"):
            table.add_column(name, justify="left" if name == "number" else "right")
        for m in report.metrics[:_SHOWN]:
            between = "" if m.low is None or m.high is None else f"{shown(m.low, m.unit)} – {shown(m.high, m.unit)}"
            table.add_row(m.name, shown(m.value, m.unit), Text(between, style="dim"), f"{m.n:,}" if m.n else "")
        console.print(table)
        if len(report.metrics) > _SHOWN:
            console.print(f"  and {len(report.metrics) - _SHOWN} more numbers, in --out, --html or --json", style="dim")
        for line in report.notes:
            note(f"  {line}")
        console.print()
