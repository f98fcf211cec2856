"""The log: whole lines, truncation, curves."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from binderclip.errors import InputError
from binderclip.train.logbook import LOG, MOST_POINTS, Logbook, _thin, curves_html, read, write_curves


def written(folder: Path, steps: int = 5) -> Logbook:
    log = Logbook(folder)
    for step in range(1, steps + 1):
        log.write({"event": "step", "step": step, "loss": 4.0 / step})
    return log


def test_a_record_a_line_readable_at_once(tmp_path: Path) -> None:
    log = Logbook(tmp_path / "run")
    assert not (tmp_path / "run").exists()  # other processes hold one too
    log.write(
        {"step": 1, "loss": torch.tensor(0.5), "n": np.int64(3), "name": "grün", "parts": {"a": (1, float("nan"))}}
    )
    assert read(log.path) == [{"step": 1, "loss": 0.5, "n": 3, "name": "grün", "parts": {"a": [1, None]}}]
    log.write({"step": 2})
    assert len(log.path.read_bytes().splitlines()) == 2
    assert all(json.loads(line) for line in log.path.read_text("utf-8").splitlines())


@pytest.mark.parametrize("tail", [b"", b'{"step": 6, "lo', b'{"step": 6}', b"\xff\xfe"])
def test_a_torn_last_line_is_dropped(tmp_path: Path, tail: bytes) -> None:
    written(tmp_path).close()
    with open(tmp_path / LOG, "ab") as stream:
        stream.write(tail)
    assert [r["step"] for r in read(tmp_path / LOG)] == [1, 2, 3, 4, 5]
    Logbook(tmp_path).write({"step": 6, "whole": True})
    assert read(tmp_path / LOG)[-1] == {"step": 6, "whole": True}
    assert len(read(tmp_path / LOG)) == 6


def test_truncation_keeps_what_a_checkpoint_knows(tmp_path: Path) -> None:
    log = Logbook(tmp_path)
    log.write({"event": "start"})
    for step in (1, 2, 3):
        log.write({"event": "step", "step": step})
        log.write({"event": "note", "of": step})
    whole = log.path.read_bytes()
    log.truncate(9)
    assert log.path.read_bytes() == whole
    log.truncate(2)
    assert [r.get("step", r.get("of")) for r in read(log.path)] == [None, 1, 1, 2, 2]
    log.write({"event": "step", "step": 3})  # the same book goes on
    log.write({"event": "note", "of": 3})
    assert log.path.read_bytes() == whole
    log.truncate(-1)
    assert read(log.path) == [{"event": "start"}]
    Logbook(tmp_path / "fresh").truncate(0)
    assert read(tmp_path / "fresh" / LOG) == []


def test_a_line_that_is_no_record_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / LOG).write_bytes(b'{"step": 1}\nnoise\n[1]\n{"step": 2}\n')
    assert [r["step"] for r in read(tmp_path / LOG)] == [1, 2]
    Logbook(tmp_path).truncate(2)
    assert len((tmp_path / LOG).read_bytes().splitlines()) == 4


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    log = written(tmp_path, 1)

    class Full:
        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            pass

    log._file.close()
    log._file = Full()
    with pytest.raises(InputError, match=r"log\.jsonl cannot be written \(No space left on device\): make room"):
        log.write({"step": 2})
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "nowhere" / LOG)


def test_thinning_gives_the_means_of_stretches() -> None:
    values = np.random.default_rng(0).normal(size=7001)
    thin = _thin([(float(i), float(v)) for i, v in enumerate(values)])
    assert len(thin) == MOST_POINTS
    for i, (x, y) in enumerate(thin):
        stretch = slice(i * 7001 // 500, (i + 1) * 7001 // 500)
        assert x == pytest.approx(np.arange(7001)[stretch].mean())
        assert y == pytest.approx(values[stretch].mean())
    line = [(1.0, 2.0)] * 500
    assert _thin(line) == line


def run_records(steps: int = 1200) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = [{"event": "start", "model": "nano"}]
    for step in range(1, steps + 1):
        parts = {"loss": 4 / step, "contrastive": 3 / step, "<b>distil": 1 / step}
        own = {"lr": 1e-3 * (1 - step / steps), "scale": 14.0 + step / 100, "seconds": 0.5, "rows": 64}
        records.append({"event": "step", "step": step, **parts, **own})
        if step % 300 == 0:
            records.append(
                {"event": "validation", "step": step, "accuracy": 0.1, "loss": 2.0, "retained_accuracy": 0.6}
            )
    return records


def test_the_page_is_whole_in_itself(tmp_path: Path) -> None:
    page = curves_html(run_records(), "run <1>")
    titles = re.findall("<figcaption>(.*?)</figcaption>", page)
    assert titles == [
        "Loss and its parts",
        "Learning rate",
        "Samples a second",
        "Scale of the logits",
        "Validation",
        "Zero-shot retained",
    ]
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "run &lt;1&gt;" in page
    assert "&lt;b&gt;distil" in page
    assert "<b>" not in page
    assert "validation loss" in page
    assert "prefers-color-scheme: dark" in page
    lines = re.findall(r'<polyline class="s\d" points="([^"]*)"', page)
    assert len(lines) == 9
    assert max(len(line.split()) for line in lines) <= MOST_POINTS
    for line in lines:
        for x, y in (point.split(",") for point in line.split()):
            assert 50 <= float(x) <= 420, "inside the chart"
            assert 0 <= float(y) <= 300, "inside the chart"
    cells = re.search(r"<td>samples_per_second</td>(.*?)</tr>", page)
    assert cells is not None
    assert cells[1].count(">128</td>") == 4
    assert len(page) < 200_000


def test_many_parts_go_on_in_a_second_chart() -> None:
    page = curves_html([{"step": s, "loss": 1.0, **{f"part{i}": float(i) for i in range(8)}} for s in (1, 2)], "many")
    assert page.count("<figcaption>Loss and its parts</figcaption>") == 2
    assert page.count("<polyline") == 9
    assert curves_html(run_records(30), "same") == curves_html(run_records(30), "same")


def test_curves_of_a_run_and_of_nothing(tmp_path: Path) -> None:
    log = written(tmp_path)
    log.write({"event": "step", "step": 6, "loss": float("nan")})
    assert log.write_curves() == tmp_path / "curves.html"
    assert "6 steps" in (tmp_path / "curves.html").read_text("utf-8")
    assert "Nothing logged yet" in curves_html([], "empty")
    with pytest.raises(InputError, match="cannot be read"):
        write_curves(tmp_path / "nowhere")
