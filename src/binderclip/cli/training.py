"""What a training run shows while it runs: a live table on a terminal, a line now and then elsewhere; and its end."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from rich.live import Live
from rich.table import Table

from binderclip.cli.console import console, err, note

__all__ = ["Display", "difference", "show_validation"]

_SECONDS = 10.0  # between two lines where there is no terminal
_HIDDEN = {"event", "step", "seconds", "rows", "lr", "scale", "gradient_norm"}


class Display:
    """Listens to a run; a context manager, so that the terminal is left in order.

    Args:
        steps: of the whole run.
        silent: show nothing.
    """

    def __init__(self, steps: int, *, silent: bool = False) -> None:
        self.steps, self.silent = steps, silent
        self.pace: deque[tuple[float, int]] = deque(maxlen=100)  # when a step ended, and its rows
        self.step: Mapping[str, Any] = {}
        self.validation: Mapping[str, Any] = {}
        self.first_step: int | None = None
        self.told = 0.0
        self.live = None if silent or not sys.stderr.isatty() else Live(console=err, auto_refresh=False, transient=True)

    def __enter__(self) -> Display:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *problem: object) -> None:
        if self.live:
            self.live.stop()

    def __call__(self, record: Mapping[str, Any]) -> None:
        """One record of the log."""
        now = time.monotonic()
        if record["event"] == "validation":
            self.validation = record
        if record["event"] == "step":
            self.step = record
            self.pace.append((now, int(record["rows"])))
        if self.silent or record["event"] not in ("step", "validation"):
            return
        if self.live:
            if now - self.told > 0.2:
                self.live.update(self._table(), refresh=True)
                self.told = now
        elif record["event"] == "validation" or now - self.told > _SECONDS or record["step"] == self.steps:
            note(self._line(record))
            self.told = now

    @property
    def rate(self) -> float:
        """Samples a second over the last steps, reading included."""
        if len(self.pace) < 2:
            return 0.0
        return sum(rows for _, rows in list(self.pace)[1:]) / max(self.pace[-1][0] - self.pace[0][0], 1e-9)

    def _left(self) -> str:
        if len(self.pace) < 2:
            return "-"
        each = (self.pace[-1][0] - self.pace[0][0]) / (len(self.pace) - 1)
        seconds = int(each * (self.steps - int(self.step["step"])))
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"

    def _line(self, record: Mapping[str, Any]) -> str:
        shown = {k: v for k, v in record.items() if k not in _HIDDEN and isinstance(v, float)}
        if len(shown) == 2 and record["event"] == "step":  # a loss of one part
            shown = {"loss": shown["loss"]}
        numbers = "  ".join(f"{k} {v:.4g}" for k, v in shown.items())
        if record["event"] == "validation":
            return f"step {record['step']}/{self.steps}  held out: {numbers}"
        return f"step {record['step']}/{self.steps}  {numbers}  {self.rate:.0f} samples/s  left {self._left()}"

    def _table(self) -> Table:
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(style="dim")
        table.add_column()
        done = int(self.step.get("step", 0))
        bar = "█" * (30 * done // self.steps)
        table.add_row("step", f"{done}/{self.steps} {bar:░<30} left {self._left()}")
        table.add_row("samples/s", f"{self.rate:.0f}")
        for name in ("loss", *(k for k in self.step if k not in _HIDDEN and k != "loss"), "lr", "scale"):
            if name in self.step:
                table.add_row(name, f"{self.step[name]:.4g}")
        for name, value in self.validation.items():
            if isinstance(value, float):
                table.add_row(f"held out: {name}", f"{value:.4g} (step {self.validation['step']})")
        return table


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Name, value before and value after of what was measured on held-out rows."""
    return [
        {"measure": name, "before": before[name], "after": value, "change": value - before[name]}
        for name, value in after.items()
        if isinstance(value, float) and isinstance(before.get(name), float)
    ]


def show_validation(rows: Sequence[Mapping[str, Any]]) -> None:
    """The table of before and after."""
    table = Table(box=None, pad_edge=False)
    for name in ("held out", "before", "after", "change"):
        table.add_column(name, justify="left" if name == "held out" else "right")
    for row in rows:
        name = str(row["measure"]).replace("retained_", "zero-shot retained: ").replace("_", " ")
        table.add_row(name, f"{row['before']:.4f}", f"{row['after']:.4f}", f"{row['change']:+.4f}")
    console.print(table)
