"""`binderclip doctor`: what works on this machine, and what to install for the rest."""

from __future__ import annotations

import importlib.util
import os
import platform
import sqlite3
import sys
import time
from importlib import metadata
from typing import Any

from binderclip.cli.console import console, emit_json
from binderclip.cli.results import DB, JSON, default_db

__all__ = ["doctor"]

CORE = ("numpy", "onnxruntime", "Pillow", "tokenizers", "safetensors", "typer", "rich", "usearch")
EXTRAS = {
    "torch": "torch",
    "hf": "huggingface_hub",
    "heic": "pillow_heif",
    "raw": "rawpy",
    "lance": "lancedb",
    "serve": "fastapi",
    "video": "av",
    "audio": "soundfile",
    "learn": "sklearn",
    "plots": "matplotlib",
    "fast": "openvino",
    "ray": "ray",
}


def doctor(db: DB = None, as_json: JSON = False) -> int:
    """Check the installation: versions, extras, the embedded model and the index. Exit code 2 when something is broken."""
    facts: dict[str, Any] = {
        "binderclip": metadata.version("binderclip"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "sqlite": sqlite3.sqlite_version,
        "core": {name: _version(name) for name in CORE},
        "extras": {extra: importlib.util.find_spec(module) is not None for extra, module in EXTRAS.items()},
        "model": _try_model(),
        "index": _try_index(db),
    }
    problems = [f"{name} is not installed" for name, version in facts["core"].items() if version is None]
    problems += [facts[part]["problem"] for part in ("model", "index") if facts[part].get("problem")]
    facts["problems"] = problems
    if as_json:
        emit_json(facts)
    else:
        _show(facts)
    return 2 if problems else 0


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _try_model() -> dict[str, Any]:
    """Encode one text and one picture with the embedded model."""
    from PIL import Image

    from binderclip.engine import Encoder
    from binderclip.errors import BinderclipError

    start = time.perf_counter()
    try:
        encoder = Encoder("pocket")
        encoder.encode_text(["a picture"])
        encoder.encode_image([Image.new("RGB", (64, 64))])
    except (BinderclipError, OSError) as error:
        return {"name": "pocket", "problem": f"the embedded model does not run: {error}"}
    return {
        "name": "pocket",
        "dim": encoder.dim,
        "fingerprint": encoder.fingerprint,
        "seconds": time.perf_counter() - start,
    }


def _try_index(db: Any) -> dict[str, Any]:
    from binderclip.cli.results import open_index
    from binderclip.errors import BinderclipError

    place = db or default_db()
    if not (place / "index.sqlite3").is_file():
        return {"db": str(place), "files": 0}
    try:
        with open_index(place) as index:
            info = index.info()
            return {"db": info["db"], "files": info["files"], "bytes": info["bytes"]}
    except (BinderclipError, sqlite3.Error) as error:
        return {"db": str(place), "problem": f"the index cannot be opened: {error}"}


def _show(facts: dict[str, Any]) -> None:
    console.print(
        f"binderclip {facts['binderclip']}, Python {facts['python']}, SQLite {facts['sqlite']}, {facts['platform']}",
        markup=False,
    )
    console.print(
        "core:   " + ", ".join(f"{name} {version or 'MISSING'}" for name, version in facts["core"].items()),
        markup=False,
    )
    have = [extra for extra, there in facts["extras"].items() if there]
    lack = [extra for extra, there in facts["extras"].items() if not there]
    console.print(f"extras: {', '.join(have) or 'none'}; not installed: {', '.join(lack) or 'none'}", markup=False)
    model, index = facts["model"], facts["index"]
    if "problem" not in model:
        console.print(
            f"model:  {model['name']} ({model['dim']} dimensions) opens and encodes in {model['seconds']:.2f} s",
            markup=False,
        )
    if "problem" not in index:
        hint = "" if index["files"] else " (make one: binderclip index PATH)"
        console.print(f"index:  {index['db']}, {index['files']:,} files{hint}", markup=False)
    for problem in facts["problems"]:
        console.print(f"[red]problem:[/red] {problem}")
    if not facts["problems"]:
        console.print("[green]all is well[/green]")
    sys.stdout.flush()
