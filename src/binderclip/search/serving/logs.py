"""Logs as JSON, one object a line on stderr: what happened, to which request, how long it took; never what was asked."""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from typing import Any, TextIO

__all__ = ["log", "set_up"]

_logger = logging.getLogger("binderclip.serve")


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {"time": f"{moment}.{int(record.msecs):03d}Z", "level": record.levelname.lower()}
        fields = getattr(record, "fields", None)
        line |= {"event": record.getMessage()} | (fields if isinstance(fields, dict) else {"logger": record.name})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True, default=str)


def log(event: str, *, level: int = logging.INFO, error: BaseException | None = None, **fields: Any) -> None:
    """Writes one line: the event's name and its fields."""
    _logger.log(level, event, extra={"fields": fields}, exc_info=error)


def set_up(level: str = "info") -> None:
    """Sends our lines, the libraries' and Python's warnings to stderr as JSON."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonLines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel("WARNING")
    _logger.setLevel(level.upper())
    for name in ("uvicorn.error", "python_multipart"):  # what any client can make them say is no news
        logging.getLogger(name).setLevel("ERROR")

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        log("warning", level=logging.WARNING, message=str(message))

    warnings.showwarning = show
    sys.stderr.flush()
