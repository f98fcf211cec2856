"""The log of a run, one JSON object a line, and its curves as one page of HTML. Without torch.

A record has ``event`` (``step``, ``validation``, ...), ``step`` (how many are done) and numbers by name.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

from binderclip.data.files import write_whole
from binderclip.errors import InputError
from binderclip.figures import draw, safe

__all__ = ["Logbook", "curves_html", "read", "write_curves"]

LOG, PAGE, MOST_POINTS, MOST_LINES = "log.jsonl", "curves.html", 500, 6
Record = Mapping[str, Any]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # the browser fetches nothing
_LOSS, _VALIDATION, _RETAINED = "Loss and its parts", "Validation", "Zero-shot retained"
# What a step tells beside its loss and the loss's parts.
_OF_A_STEP = {
    "lr": "Learning rate",
    "samples_per_second": "Samples a second",
    "scale": "Scale of the logits",
    "gradient_norm": "Norm of the gradient",
}
_NO_CURVE = {"event", "step", "seconds", "rows", "samples", "epoch", "phase", "time"}


class Logbook:
    """``log.jsonl`` of a run; nothing is opened before the first use, so any process may hold one.

    Args:
        run_dir: folder of the run.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir, self.path = run_dir, run_dir / LOG
        self._file: Any = None

    def write(self, record: Record) -> None:
        """Append a record and hand it to the system at once; numbers that are not finite become null.

        Raises:
            InputError: the disk is full, or the folder cannot be written.
        """
        line = json.dumps(_plain(record), ensure_ascii=False).encode() + b"\n"
        try:
            if self._file is None:
                self._open(None)
            while line:  # unbuffered: what fails to be written is not tried again when the file is closed
                line = line[self._file.write(line) :]
        except OSError as error:
            raise InputError(f"{self.path} cannot be written ({error.strerror}): make room, then resume") from None

    def truncate(self, step: int) -> None:
        """Drop the first record behind a step and all after it, and a last line that was torn; before a run goes on.

        Raises:
            InputError: the file cannot be written.
        """
        self.close()
        try:
            self._open(step)
        except OSError as error:
            raise InputError(f"{self.path} cannot be written ({error.strerror}): make room, then resume") from None

    def _open(self, step: int | None) -> None:
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - closed by close()
        size = _end(self.path, step)
        if size < self.path.stat().st_size:
            os.truncate(self.path, size)

    def close(self) -> None:
        """Let the file go; the next write opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def write_curves(self) -> Path:
        """``write_curves`` of this run."""
        return write_curves(self.run_dir)


def read(path: Path) -> list[dict[str, Any]]:
    """Records of a log; lines that are no records, such as a torn last one, are passed over.

    Raises:
        InputError: no such file.
    """
    try:
        return [record for _, record in _lines(path) if record is not None]
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): name a run's folder or its {LOG}") from None


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Length of each whole line, and its record where it is one."""
    with open(path, "rb") as stream:
        for line in stream:
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            yield len(line), record if isinstance(record, dict) else None


def _end(path: Path, step: int | None) -> int:
    """Bytes up to the last whole line that is not behind a step."""
    end = 0
    for length, record in _lines(path):
        if step is not None and record is not None and record.get("step", step) > step:
            break
        end += length
    return end


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "item"):  # a scalar of numpy or torch
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


# -- curves --------------------------------------------------------------------------------------------------------------


def write_curves(run_dir: Path) -> Path:
    """Draw a run's log as ``curves.html`` beside it.

    Raises:
        InputError: there is no log, or the page cannot be written.
    """
    page = curves_html(run_dir / LOG, run_dir.absolute().name)
    try:
        write_whole(run_dir / PAGE, page.encode("utf-8", "replace"))
    except OSError as error:
        raise InputError(f"{run_dir / PAGE} cannot be written ({error.strerror}): make room") from None
    return run_dir / PAGE


def curves_html(source: Path | Sequence[Record], title: str) -> str:
    """A page of line charts: loss and its parts, learning rate, samples a second, scale, validation, zero-shot retained.

    It needs nothing from elsewhere and runs no script. A line of more than 500 points is drawn as the means of 500
    stretches; a table tells first, last, lowest and highest.

    Args:
        source: a log's path, or its records.
        title: of the page.
    """
    records = read(source) if isinstance(source, Path) else source
    charts: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for record in records:
        for name, chart, value in _numbers(record):
            charts.setdefault(chart, {}).setdefault(name, []).append((float(record["step"]), value))
    order = [_LOSS, *_OF_A_STEP.values(), _VALIDATION, _RETAINED]
    ordered = {name: charts[name] for name in order if name in charts}
    figures = "".join(draw(chart) for name, series in ordered.items() for chart in _charts(name, series))
    rows = "".join(_row(name, line) for series in ordered.values() for name, line in series.items())
    head = "".join(f'<th class="num">{word}</th>' for word in ("first", "last", "lowest", "highest"))
    steps = max((int(r["step"]) for r in records if _number(r.get("step"))), default=0)
    style = resources.files("binderclip.train").joinpath("curves.css").read_text("utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{safe(title)}</title><style>{style}</style></head><body><main><header><h1>{safe(title)}</h1>"
        f"<p>{steps:,} steps</p></header><section><div class='charts'>{figures or '<p>Nothing logged yet.</p>'}</div>"
        f"</section><section><div class='scroll'><table><thead><tr><th>number</th>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div></section></main></body></html>\n"
    )


def _numbers(record: Record) -> Iterator[tuple[str, str, float]]:
    """Name, chart and value of what a record has to draw."""
    if not _number(record.get("step")):
        return
    found = {name: float(value) for name, value in record.items() if _number(value)}
    if record.get("event", "step") == "step":
        if found.get("seconds", 0) > 0 and "rows" in found:
            found.setdefault("samples_per_second", found["rows"] / found["seconds"])
        yield from ((name, _OF_A_STEP.get(name, _LOSS), found[name]) for name in found if name not in _NO_CURVE)
        return
    for name in found:
        if name.startswith("retained"):
            yield name, _RETAINED, found[name]
        elif name == "loss":
            yield f"{record['event']} loss", _LOSS, found[name]
        elif name not in _NO_CURVE:
            yield name, _VALIDATION, found[name]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _charts(title: str, series: Mapping[str, list[tuple[float, float]]]) -> Iterator[dict[str, Any]]:
    """At most six lines a chart; shares, which validation tells, from 0 to the highest."""
    names = sorted(series, key=lambda name: (name != "loss", name))
    for start in range(0, len(names), MOST_LINES):
        lines = {name: _thin(series[name]) for name in names[start : start + MOST_LINES]}
        values = [value for line in lines.values() for _, value in line]
        chart: dict[str, Any] = {"kind": "lines", "title": title, "x": "step", "series": lines, "unit": "number"}
        if title in (_VALIDATION, _RETAINED) and min(values) >= 0 and max(values) <= 1:
            chart |= {"unit": "share", "range": (0.0, min(1.0, 1.1 * max(values)) or 1.0)}
        elif title in (_OF_A_STEP["samples_per_second"], _OF_A_STEP["gradient_norm"]):
            chart["range"] = (0.0, 1.1 * max(values))
        yield chart


def _thin(line: list[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most so many points: the means of as many equal stretches. The table below tells the extremes."""
    if len(line) <= most:
        return line
    edges = [i * len(line) // most for i in range(most + 1)]
    parts = [line[a:b] for a, b in pairwise(edges)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def _row(name: str, line: list[tuple[float, float]]) -> str:
    values = [value for _, value in line]
    cells = "".join(f'<td class="num">{v:.4g}</td>' for v in (values[0], values[-1], min(values), max(values)))
    return f"<tr><td>{safe(name)}</td>{cells}</tr>"
