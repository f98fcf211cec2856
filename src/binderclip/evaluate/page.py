"""Reports as one self-contained HTML file, several models side by side, with charts and thumbnails; and as CSV."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from binderclip.data.files import write_whole
from binderclip.errors import InputError
from binderclip.evaluate.base import Example, Metric, Report
from binderclip.evaluate.data import Item
from binderclip.evaluate.vectors import thumbnail
from binderclip.figures import draw, percent, safe

__all__ = ["headline", "metrics_csv", "report_html", "shown", "write_page"]

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # the browser fetches nothing
_TITLES = {
    "zero_shot": "Zero-shot classification",
    "retrieval": "Retrieval",
    "linear_probe": "Linear probe",
    "knn": "Nearest neighbours",
    "calibration": "Calibration",
    "ood": "Out-of-distribution detection",
    "corruptions": "Robustness to corruptions",
    "modality_gap": "Modality gap, alignment, uniformity",
    "compositional": "Compositional scoring",
    "clipscore": "CLIPScore",
}
# The numbers that stand for a probe where there is room for few.
_HEADLINES = {
    "retrieval": ("text_to_image_recall@1", "image_to_text_recall@1", "rsum"),
    "ood": ("mcm_auroc", "mcm_fpr95"),
    "modality_gap": ("gap", "alignment", "uniformity_image"),
    "calibration": ("ece", "nll"),
    "corruptions": ("mE", "clean_acc1"),
    "compositional": ("accuracy", "group_score"),
}


def write_page(path: Path, title: str, reports: Sequence[Report], items: Mapping[str, Item] | None = None) -> Path:
    """Write the page; returns where it is.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        write_whole(path, report_html(title, reports, items).encode("utf-8", "replace"))
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}): choose another file") from None
    return path.absolute()


def report_html(title: str, reports: Sequence[Report], items: Mapping[str, Item] | None = None) -> str:
    """The page. No text of the user's is taken for markup, and nothing comes from anywhere else.

    Args:
        title: of the page.
        reports: in any order; those of one probe stand side by side.
        items: by id, for the thumbnails.
    """
    by_probe: dict[str, list[Report]] = {}
    for report in reports:
        by_probe.setdefault(report.probe, []).append(report)
    models, data = list(dict.fromkeys(r.model for r in reports)), list(dict.fromkeys(r.data for r in reports))
    style = resources.files("binderclip.evaluate").joinpath("page.css").read_text("utf-8")
    parts = [_summary(by_probe, models)] if len(by_probe) > 1 else []
    parts += [_section(probe, found, items or {}) for probe, found in by_probe.items()]
    counts = f"{_count(len(models), 'model')}, {_count(len(by_probe), 'probe')}, data: {safe(', '.join(data))}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{safe(title)}</title><style>{style}</style></head><body><main><header><h1>{safe(title)}</h1>"
        f"<p>{counts}</p></header>{''.join(parts)}<footer>Made by binderclip evaluate. Intervals hold 95 %: Wilson's for "
        "shares of items, percentile bootstrap for all else. A tie is not correct.</footer></main></body></html>\n"
    )


def metrics_csv(reports: Sequence[Report]) -> str:
    """All numbers, one a line: model, data, probe, metric, value, low, high, n."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["model", "data", "probe", "metric", "value", "low", "high", "n", "interval"])
    for report in reports:
        for m in report.metrics:
            numbers = ["" if v is None or math.isnan(v) else repr(float(v)) for v in (m.value, m.low, m.high)]
            writer.writerow([report.model, report.data, report.probe, m.name, *numbers, m.n, m.interval])
    return out.getvalue()


def headline(report: Report) -> list[Metric]:
    """The few numbers that stand for a report."""
    wanted = _HEADLINES.get(report.probe, ())
    found = [m for m in report.metrics if m.name in wanted and not math.isnan(m.value)]
    return found or [m for m in report.metrics if not math.isnan(m.value)][:1]


def shown(value: float | None, unit: str = "") -> str:
    """A number for people."""
    if value is None or math.isnan(value):
        return "–"
    return percent(value) if unit == "share" else f"{value:.4g}"


def _count(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"


def _summary(by_probe: Mapping[str, Sequence[Report]], models: Sequence[str]) -> str:
    rows = []
    for probe, found in by_probe.items():
        names = list(dict.fromkeys(m.name for report in found for m in headline(report)))
        for place, name in enumerate(names):
            link = f'<a href="#{safe(probe)}">{safe(_title(probe))}</a>' if place == 0 else ""
            rows.append(f"<tr><th>{link}</th>{_cells(name, found, models)}</tr>")
    return f"<section><h2>At a glance</h2>{_table('probe', models, rows)}</section>"


def _section(probe: str, found: Sequence[Report], items: Mapping[str, Item]) -> str:
    models = list(dict.fromkeys(report.model for report in found))
    names = list(dict.fromkeys(m.name for report in found for m in report.metrics))
    rows = [f"<tr>{_cells(name, found, models)}</tr>" for name in names]
    first = [_table("", models, rows[:10])]
    if len(rows) > 10:
        first.append(
            f"<details><summary>{len(rows) - 10} more numbers</summary>{_table('', models, rows[10:])}</details>"
        )
    parts = [f'<section id="{safe(probe)}"><h2>{safe(_title(probe))}</h2>', *first]
    for report in found:
        heading = f"<h3>{safe(report.model)}</h3>" if len(found) > 1 else ""
        notes = "".join(f"<li>{safe(note)}</li>" for note in report.notes)
        charts = "".join(draw(chart) for chart in report.charts)
        parts.append(heading + (f'<ul class="notes">{notes}</ul>' if notes else ""))
        parts.append(f'<div class="charts">{charts}</div>' if charts else "")
        if report.examples:
            cards = "".join(_card(example, items) for example in report.examples)
            parts.append(f'<h4>Worth a look, worst first</h4><ol class="sheet">{cards}</ol>')
        if report.settings:
            text = json.dumps(report.settings, indent=1, ensure_ascii=False)
            lines = "\n".join(safe(line) for line in text.splitlines())
            parts.append(f"<details><summary>Settings</summary><pre>{lines}</pre></details>")
    return "".join(parts) + "</section>"


def _table(corner: str, models: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f'<th class="num">{safe(model)}</th>' for model in models)
    first = f"<th>{corner}</th>" if corner else ""
    return (
        f'<div class="scroll"><table class="numbers"><thead><tr>{first}<th>number</th>{head}'
        '<th class="num">n</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cells(name: str, found: Sequence[Report], models: Sequence[str]) -> str:
    """The name, a cell for each model with the best one marked, and n."""
    metrics = {report.model: next((m for m in report.metrics if m.name == name), None) for report in found}
    there = [m for m in metrics.values() if m is not None and not math.isnan(m.value)]
    best = None
    if len(there) > 1 and there[0].better:
        best = (max if there[0].better == "higher" else min)(m.value for m in there)
    arrow = {"higher": " ↑", "lower": " ↓"}.get(there[0].better if there else "", "")
    cells = [f'<td class="key">{safe(name)}<span class="faint">{arrow}</span></td>']
    for model in models:
        m = metrics.get(model)
        if m is None:
            cells.append('<td class="num faint">–</td>')
            continue
        low_high = "" if m.low is None or m.high is None else f"{_bare(m.low, m.unit)}–{_bare(m.high, m.unit)}"
        mark = " best" if best is not None and m.value == best else ""
        cells.append(f'<td class="num{mark}">{shown(m.value, m.unit)}<span class="ci">{low_high}</span></td>')
    sizes = sorted({m.n for m in there if m.n})
    return "".join(cells) + f'<td class="num faint">{", ".join(f"{n:,}" for n in sizes)}</td>'


def _bare(value: float, unit: str) -> str:
    return f"{100 * value:.1f}" if unit == "share" else f"{value:.4g}"


def _card(example: Example, items: Mapping[str, Item]) -> str:
    item = items.get(example.id)
    data = thumbnail(item) if item is not None else None
    name = safe(example.id)
    picture = '<span class="lost">no picture</span>'
    if data is not None:
        picture = f'<img alt="{name}" loading="lazy" src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">'
    return (
        f'<li title="{name}"><div class="thumb">{picture}</div><div class="text">'
        f'<div class="what" title="{safe(example.title)}">{safe(example.title)}</div>'
        f'<div class="facts">{safe(example.detail)}</div><div class="facts id">{name}</div></div></li>'
    )


def _title(probe: str) -> str:
    return _TITLES.get(probe, probe.replace("_", " ").capitalize())
