"""What ``binderclip tune`` found on this machine: for each model the fastest engine, threads and batch.

One small JSON file in the cache folder, a row a fingerprint. A row holds the processor it was measured on and is not used
on another one. Anything wrong with the file means untuned, never an error: it is only about speed.
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from binderclip.data.files import write_whole

__all__ = ["ENGINES", "Tuned", "available_engines", "processor", "read_tuned", "tuned_file", "write_tuned"]

ENGINES = ("auto", "onnx", "openvino", "torch")


@dataclass(frozen=True)
class Tuned:
    """A choice for one model; ``None`` leaves a default.

    Attributes:
        engine: ``onnx``, ``openvino`` or ``torch``.
        threads: for the model.
        batch: pictures a call.
    """

    engine: str | None = None
    threads: int | None = None
    batch: int | None = None


def available_engines() -> list[str]:
    """Those whose packages are installed."""
    packages = {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch"}
    return [engine for engine, package in packages.items() if find_spec(package) is not None]


def processor() -> str:
    """The processor's name and how many cores this process may use."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = (
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        )
        name = next(lines, name)
    return f"{name}, {os.cpu_count()} cores"


def tuned_file() -> Path:
    """Where the choices are kept."""
    from binderclip.hub.cache import cache_folder

    return cache_folder() / "tuned.json"


def read_tuned(fingerprint: str) -> Tuned:
    """The choice for a model on this processor; an empty one where there is none that can be used."""
    row = _rows().get(fingerprint, {})
    if not isinstance(row, dict) or row.get("processor") != processor() or row.get("engine") not in available_engines():
        return Tuned()
    threads, batch = row.get("threads"), row.get("batch")
    if not all(value is None or (type(value) is int and 1 <= value <= 4096) for value in (threads, batch)):
        return Tuned()
    return Tuned(row["engine"], threads, batch)


def write_tuned(fingerprint: str, choice: Tuned | None) -> Path:
    """Keep a choice, or drop the one that is there; returns the file."""
    rows = _rows()
    rows.pop(fingerprint, None)
    if choice is not None:
        rows[fingerprint] = asdict(choice) | {"processor": processor()}
    path = tuned_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(rows, indent=1, sort_keys=True) + "\n").encode())
    return path


def _rows() -> dict[str, Any]:
    try:
        rows = json.loads(tuned_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return rows if isinstance(rows, dict) else {}
