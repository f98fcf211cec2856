"""Charts as inline SVG and HTML, drawn from a report's `charts`: no library, no script, colours from the page's style."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["draw", "percent", "safe"]

W, H = 420, 300  # of a chart, in its own units
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 40
MOST_LINES = 6  # more series are a table of colours
MOST_DOTS = 60  # longer lines have no dots

Chart = Mapping[str, Any]


def draw(chart: Chart) -> str:
    """A chart as a ``<figure>``; nothing for a kind that is not known."""
    kinds: dict[str, Callable[[Chart], str]] = {
        "reliability": _reliability,
        "confusion": _confusion,
        "lines": _lines,
        "histogram": _histogram,
        "scatter": _scatter,
    }
    make = kinds.get(str(chart.get("kind")))
    if make is None:
        return ""
    wide = " wide" if chart["kind"] == "confusion" else ""
    return f'<figure class="chart{wide}"><figcaption>{safe(str(chart.get("title", "")))}</figcaption>{make(chart)}</figure>'


def safe(text: str) -> str:
    """Text that is never taken for markup; what cannot be printed becomes a replacement character."""
    return html.escape(
        "".join(letter if letter.isprintable() or letter in "\u00a0\u202f" else "\ufffd" for letter in text)
    )


def percent(value: float, digits: int = 1) -> str:
    """`0.6321` -> `63.2 %`."""
    return f"{100 * value:.{digits}f}\u202f%"


def _reliability(chart: Chart) -> str:
    low, high, count = (np.array(chart[key], float) for key in ("low", "high", "count"))
    confidence = np.array([np.nan if v is None else v for v in chart["confidence"]], float)
    accuracy = np.array([np.nan if v is None else v for v in chart["accuracy"]], float)
    x, y = _scale(0, 1, LEFT, W - RIGHT), _scale(0, 1, H - BOTTOM, TOP)
    out = [_axes((0, 1), (0, 1), "confidence", "accuracy", as_percent=True)]
    most = max(float(count.max()), 1.0)
    for a, b, n, c, acc in zip(low, high, count, confidence, accuracy, strict=True):
        if not n:
            continue
        tip = f"<title>{int(n)} items: {percent(c)} sure, {percent(acc)} right</title>"
        box = f'x="{x(a) + 1:.1f}" width="{max(x(b) - x(a) - 2, 1):.1f}"'
        strength = 0.25 + 0.75 * math.sqrt(n / most)  # fuller bars hold more items
        out.append(
            f'<rect class="bar" {box} y="{y(acc):.1f}" height="{y(0) - y(acc):.1f}" '
            f'fill-opacity="{strength:.2f}">{tip}</rect>'
        )
        top, bottom = sorted((y(c), y(acc)))
        out.append(f'<rect class="gap" {box} y="{top:.1f}" height="{bottom - top:.1f}">{tip}</rect>')
    out.append(f'<line class="ideal" x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}"/>')
    note = f"ECE {percent(float(chart['ece']))}" if chart.get("ece") is not None else ""
    out.append(f'<text class="mark" x="{LEFT + 10}" y="{TOP + 18}">{note}</text>')
    return _svg(out, f"{chart.get('title', '')}: {note}") + _legend(
        {"accuracy": "c-bar", "gap to the confidence": "c-gap"}
    )


def _lines(chart: Chart) -> str:
    """``unit``: ``share`` (percent, 0 to 100) or ``number``; ``range``: bottom and top, outright."""
    series: Mapping[str, Sequence[Sequence[float]]] = chart["series"]
    if len(series) > MOST_LINES:
        return _grid(chart)
    points = [point for line in series.values() for point in line]
    if not points:
        return ""
    share = chart.get("unit", "share") == "share"
    low, high = min(p[0] for p in points), max(p[0] for p in points)
    high = high if high > low else low + 1
    bottom, top = chart.get("range") or ((0.0, 1.0) if share else _spread([p[1] for p in points]))
    x, y = _scale(low, high, LEFT, W - RIGHT), _scale(bottom, top, H - BOTTOM, TOP)
    out = [_axes((low, high), (bottom, top), str(chart.get("x", "")), str(chart.get("y", "")), y_percent=share)]
    for number, (name, line) in enumerate(series.items()):
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line)
        out.append(f'<polyline class="s{number}" points="{path}"><title>{safe(name)}</title></polyline>')
        for a, b in line if len(line) <= MOST_DOTS else ():
            value = percent(b) if share else f"{b:.4g}"
            tip = f"<title>{safe(name)}, {safe(str(chart.get('x', '')))} {_short(a)}: {value}</title>"
            out.append(f'<circle class="s{number}" cx="{x(a):.1f}" cy="{y(b):.1f}" r="3">{tip}</circle>')
    return _svg(out, str(chart.get("title", ""))) + (
        _legend({name: f"c{number}" for number, name in enumerate(series)}) if len(series) > 1 else ""
    )


def _spread(values: Sequence[float]) -> tuple[float, float]:
    """Bottom and top of an axis with a little room around the values."""
    low, high = min(values), max(values)
    room = 0.04 * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + room


def _short(value: float) -> str:
    """A number in few letters: 12,000 rather than 1.2e+04."""
    whole = abs(value) >= 1000 and value == round(value) and abs(value) < 1e7
    return f"{value:,.0f}" if whole else f"{value:.4g}"


def _grid(chart: Chart) -> str:
    """Many lines as a table of colours: a row each, the lowest first."""
    series = sorted(chart["series"].items(), key=lambda item: sum(p[1] for p in item[1]))
    columns = [point[0] for point in series[0][1]]
    head = "".join(f"<th>{value:g}</th>" for value in columns)
    body = "".join(
        f"<tr><th>{safe(name)}</th>" + "".join(_cell(p[1], percent(p[1], 0)) for p in line) + "</tr>"
        for name, line in series
    )
    corner = f"<th>{safe(str(chart.get('y', '')))} by {safe(str(chart.get('x', '')))}</th>"
    table = f'<table class="heat"><thead><tr>{corner}{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="scroll">{table}</div>'


def _histogram(chart: Chart, bins: int = 30) -> str:
    series = {name: np.array([v for v in values if v is not None], float) for name, values in chart["series"].items()}
    everything = np.concatenate([*series.values()]) if series else np.array([])
    if not len(everything):
        return ""
    low, high = float(everything.min()), float(everything.max())
    high = high if high > low else low + 1e-6
    edges = np.linspace(low, high, bins + 1)
    shares = {name: np.histogram(values, edges)[0] / max(len(values), 1) for name, values in series.items()}
    most = max(float(share.max()) for share in shares.values())
    x, y = _scale(low, high, LEFT, W - RIGHT), _scale(0, most, H - BOTTOM, TOP)
    out = [_axes((low, high), (0, most), str(chart.get("x", "")), "share of items", y_percent=True)]
    for number, (name, share) in enumerate(shares.items()):
        for i, value in enumerate(share):
            if value:
                tip = f"<title>{safe(name)}, {edges[i]:.4g} to {edges[i + 1]:.4g}: {percent(value)}</title>"
                width = x(edges[i + 1]) - x(edges[i])
                out.append(
                    f'<rect class="f{number}" x="{x(edges[i]):.1f}" width="{max(width - 0.5, 0.5):.1f}" '
                    f'y="{y(value):.1f}" height="{y(0) - y(value):.1f}">{tip}</rect>'
                )
    legend = _legend({name: f"c{n}" for n, name in enumerate(shares)}) if len(shares) > 1 else ""
    return _svg(out, str(chart.get("title", ""))) + legend


def _scatter(chart: Chart) -> str:
    series = {name: np.array(points, float).reshape(-1, 2) for name, points in chart["series"].items()}
    both = np.concatenate([*series.values()])
    if not len(both):
        return ""
    low, high = both.min(axis=0), both.max(axis=0)
    span = np.maximum(high - low, 1e-9)
    low, high = low - 0.04 * span, high + 0.04 * span
    x, y = _scale(low[0], high[0], LEFT, W - RIGHT), _scale(low[1], high[1], H - BOTTOM, TOP)
    out = [_axes((low[0], high[0]), (low[1], high[1]), "first direction", "second direction")]
    for number, points in enumerate(series.values()):
        out += [f'<circle class="p{number}" cx="{x(a):.1f}" cy="{y(b):.1f}" r="2.4"/>' for a, b in points]
    return _svg(out, str(chart.get("title", ""))) + _legend({name: f"c{n}" for n, name in enumerate(series)})


def _confusion(chart: Chart) -> str:
    classes, counts = list(chart["classes"]), np.array(chart["counts"], float)
    rows = np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    head = "".join(f'<th class="tilt" title="{safe(name)}"><span>{safe(name)}</span></th>' for name in classes)
    body = []
    for i, name in enumerate(classes):
        cells = []
        for j, other in enumerate(classes):
            n = int(counts[i, j])
            what = "right" if i == j else f"taken for {other}"
            tip = f"{n} of {int(counts[i].sum())} {name}: {what}"
            cells.append(_cell(counts[i, j] / rows[i, 0], str(n) if n else "", "hit" if i == j else "miss", tip))
        body.append(f"<tr>{_name(name, 'th')}{''.join(cells)}</tr>")
    matrix = (
        '<div class="scroll"><table class="heat square"><thead><tr><th class="corner">true class, by row</th>'
        f"{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )
    few = " few" if len(classes) <= 14 else ""  # the tables fit beside a small matrix
    return f'<div class="beside{few}">{matrix}{_classes(chart)}</div>'


def _classes(chart: Chart) -> str:
    """The pairs that are mixed up most, and the classes that do worst."""
    pairs = "".join(
        f"<tr>{_name(p['label'])}{_name(p['prediction'])}<td class=num>{p['count']}</td></tr>"
        for p in chart.get("pairs", ())
    )
    worst = sorted((c for c in chart.get("per_class", ()) if c["support"]), key=lambda c: c["f1"])[:10]
    rows = "".join(
        f"<tr>{_name(c['class'])}<td class=num>{percent(c['precision'], 0)}</td>"
        f"<td class=num>{percent(c['recall'], 0)}</td><td class=num>{int(c['support'])}</td></tr>"
        for c in worst
    )
    out = ""
    if pairs:
        titles = "<th>is</th><th>taken for</th><th class=num>times</th>"
        out += f"<table><thead><tr>{titles}</tr></thead><tbody>{pairs}</tbody></table>"
    if rows:
        out += (
            "<table><thead><tr><th>lowest classes</th><th class=num>precision</th><th class=num>recall</th>"
            f"<th class=num>n</th></tr></thead><tbody>{rows}</tbody></table>"
        )
    return f'<div class="scroll">{out}</div>' if out else ""


def _name(name: str, tag: str = "td") -> str:
    """A class name that is cut where it is long, whole in the tip."""
    return f'<{tag} class="cut" title="{safe(name)}">{safe(name)}</{tag}>'


def _cell(value: float, text: str, kind: str = "hit", tip: str = "") -> str:
    strength = round(100 * min(max(value, 0.0), 1.0))
    title = f' title="{safe(tip)}"' if tip else ""
    strong = " strong" if strength > 60 else ""
    return f'<td class="{kind}{strong}" style="--v:{strength}%"{title}>{safe(text)}</td>'


def _scale(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    span = high - low if high != low else 1.0
    return lambda value: start + (float(value) - low) / span * (stop - start)


def _ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers inside an interval."""
    step = 10.0 ** math.floor(math.log10(max(high - low, 1e-12) / most))
    step = next(step * m for m in (1, 2, 2.5, 5, 10, 20) if (high - low) / (step * m) <= most)
    first = math.ceil(low / step - 1e-9)
    return [step * k for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _axes(
    xs: tuple[float, float],
    ys: tuple[float, float],
    x_name: str,
    y_name: str,
    *,
    as_percent: bool = False,
    y_percent: bool = False,
) -> str:
    x, y = _scale(*xs, LEFT, W - RIGHT), _scale(*ys, H - BOTTOM, TOP)
    out = []
    for value in _ticks(*ys):
        label = f"{100 * value:.3g}%" if as_percent or y_percent else _short(value)
        out.append(f'<line class="grid" x1="{LEFT}" x2="{W - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        out.append(f'<text class="tick" x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{label}</text>')
    for value in _ticks(*xs):
        label = f"{100 * value:.3g}%" if as_percent else _short(value)
        out.append(f'<text class="tick" x="{x(value):.1f}" y="{H - BOTTOM + 16}" text-anchor="middle">{label}</text>')
    out.append(f'<line class="axis" x1="{LEFT}" x2="{W - RIGHT}" y1="{H - BOTTOM}" y2="{H - BOTTOM}"/>')
    middle = (TOP + H - BOTTOM) / 2
    out.append(
        f'<text class="name" x="{(LEFT + W - RIGHT) / 2}" y="{H - 6}" text-anchor="middle">{safe(x_name)}</text>'
    )
    out.append(
        f'<text class="name" x="11" y="{middle}" text-anchor="middle" transform="rotate(-90 11 {middle})">'
        f"{safe(y_name)}</text>"
    )
    return "".join(out)


def _svg(parts: Sequence[str], label: str) -> str:
    return f'<svg viewBox="0 0 {W} {H}" role="img" aria-label="{safe(label)}">{"".join(parts)}</svg>'


def _legend(names: Mapping[str, str]) -> str:
    return (
        '<div class="legend">'
        + "".join(f'<span><i class="{c}"></i>{safe(n)}</span>' for n, c in names.items())
        + "</div>"
    )
