"""The HTML report: whole, closed, with everything escaped; and the CSV of numbers."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from binderclip.errors import InputError
from binderclip.evaluate import probes
from binderclip.evaluate.base import Example, Metric, Report
from binderclip.evaluate.data import Dataset, Sets
from binderclip.evaluate.page import headline, metrics_csv, report_html, write_page
from binderclip.evaluate.store import evaluate
from binderclip.evaluate.vectors import Vectors
from binderclip.figures import draw
from tests.evaluate.helpers import ColourEncoder, colours

EVIL = '<script>alert("x")</script>&\x1b[31m'
VOID = {"meta", "img"}


class Checker(HTMLParser):
    """Notes tags that are not closed in order, and every tag and attribute there is."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)


def check(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.faults == []
    assert checker.open == []
    assert "script" not in checker.tags
    assert all(link.startswith(("data:image/jpeg", "#")) for link in checker.links)
    assert "\x1b" not in text
    return checker


@pytest.fixture(scope="module")
def everything() -> tuple[list[Report], Dataset]:
    data = colours(5, captions=1)
    evil = replace(
        data,
        classes=(EVIL, *data.classes[1:]),
        name=EVIL,
        items=tuple(replace(i, captions=(i.captions[0] + EVIL,), negatives=(EVIL,), kind=EVIL) for i in data.items),
    )
    outliers = replace(colours(1), items=tuple(replace(i, id=f"o/{i.id}{EVIL}") for i in colours(1).items))
    sets, reports = Sets(evil, outliers=outliers), []
    for noise, name in ((0.1, EVIL), (0.4, "second")):
        encoder = ColourEncoder(noise=noise)
        encoder.name = name
        vectors = Vectors(encoder)
        for probe in probes.names():
            options = {
                "kinds": tuple("fog contrast jpeg snow frost elastic pixelate".split()),
                "severities": (1, 5),
                "most": 6,
            }
            reports.append(evaluate(vectors, sets, probes.load(probe, **(options if probe == "corruptions" else {}))))
    return reports, evil


def test_the_page_is_closed_and_escaped(everything: tuple[list[Report], Dataset]) -> None:
    reports, data = everything
    text = report_html(EVIL, reports, {item.id: item for item in data.items})
    checker = check(text)
    assert text.count("<h2>") == len(probes.names()) + 1
    assert "svg" in checker.tags
    assert "img" in checker.tags
    assert "&lt;script&gt;" in text
    assert "http" not in text.replace("http-equiv", "")
    assert "\ufffd%" not in text  # the thin space before a percent sign is meant


def test_two_models_stand_side_by_side_with_the_best_marked() -> None:
    one = Report(
        "knn",
        "a",
        "d",
        (Metric("acc1", 0.5, 10, 0.2, 0.8, "wilson", "higher", "share"), Metric("nll", 2.0, 10, better="lower")),
    )
    two = replace(one, model="b", metrics=(replace(one.metrics[0], value=0.75), replace(one.metrics[1], value=3.0)))
    text = report_html("t", [one, two])
    check(text)
    assert '<td class="num best">75.0\u202f%' in text
    assert '<td class="num best">2<' in text
    assert "20.0–80.0" in text
    assert "At a glance" not in text
    alone = report_html("t", [one])
    assert "best" not in alone.split("</style>")[1]
    missing = Report("knn", "c", "d", (Metric("acc5", float("nan"), 10),))
    check(report_html("t", [one, missing]))
    assert headline(missing) == []


def test_charts_bear_odd_values() -> None:
    assert draw({"kind": "unknown"}) == ""
    empty = {"kind": "lines", "title": "t", "series": {"a": []}}
    flat = {"kind": "histogram", "title": "t", "series": {"a": [0.5, 0.5], "b": [None, 0.5]}}
    point = {"kind": "scatter", "title": "t", "series": {"a": [[0, 0]]}}
    single = {"kind": "lines", "title": "t", "series": {"a": [[1, 0.5]]}}
    bins = {"low": [0, 0.5], "high": [0.5, 1], "count": [0, 2], "confidence": [None, 0.7], "accuracy": [None, 1.0]}
    for chart in (empty, flat, point, single, {"kind": "reliability", "title": "t", "ece": 0.3, **bins}):
        check(draw(chart))


def test_pictures_that_are_gone_leave_a_word(tmp_path: Path) -> None:
    report = Report("knn", "m", "d", (Metric("acc1", 1.0, 1),), examples=(Example("lost", "gone"),))
    path = write_page(tmp_path / "r.html", "t", [report])
    assert "no picture" in path.read_text("utf-8")
    with pytest.raises(InputError, match="cannot be written"):
        write_page(tmp_path / "none" / "r.html", "t", [report])


def test_numbers_as_csv(everything: tuple[list[Report], Dataset]) -> None:
    reports, _ = everything
    rows = list(csv.DictReader(io.StringIO(metrics_csv(reports))))
    assert len(rows) == sum(len(report.metrics) for report in reports)
    assert rows[0]["model"] == EVIL
    assert float(rows[0]["value"]) == reports[0].metrics[0].value
