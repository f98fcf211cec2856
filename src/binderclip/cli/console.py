"""Where the command line writes: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape

__all__ = ["console", "emit_json", "err", "note", "quiet_warnings", "warn"]

console = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def emit_json(value: Any) -> None:
    """Print one JSON value on stdout; paths that are not UTF-8 come with replacement characters."""
    text = json.dumps(value, ensure_ascii=False, indent=2, default=str)
    sys.stdout.write(text.encode("utf-8", "replace").decode() + "\n")
    sys.stdout.flush()


def note(message: str) -> None:
    """Tell the user something that is no result."""
    err.print(escape(_printable(message)))


def warn(message: str) -> None:
    """Tell the user of a problem that does not stop the work."""
    err.print(f"[yellow]warning:[/yellow] {escape(_printable(message))}")


def fail(message: str) -> None:
    """Tell the user why the work stopped."""
    err.print(f"[red]error:[/red] {escape(_printable(message))}")


def quiet_warnings() -> None:
    """Show Python warnings as one plain line instead of a source location."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, UserWarning):
            warn(str(message))

    warnings.showwarning = show


def _printable(text: str) -> str:
    """Control characters of a file name must not reach the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
