"""Results are data: settings JSON -> result JSON, made again only when the settings change.

The settings of a result are the probe's own, the model's fingerprint, the digest of the data and that of this room's code.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from binderclip.data.files import write_whole
from binderclip.errors import InputError
from binderclip.evaluate.base import Probe, Report, as_text
from binderclip.evaluate.data import Sets
from binderclip.evaluate.probes import name_of
from binderclip.evaluate.vectors import Vectors

__all__ = ["Store", "evaluate", "settings_of"]


def settings_of(probe: Probe, vectors: Vectors, sets: Sets) -> dict[str, Any]:
    """Everything that a result depends on, as plain JSON values."""
    own = dict(vars(probe))  # of a frozen dataclass: its fields
    data = {part: {"name": one.name, "rows": len(one), "digest": one.digest} for part, one in sets.parts().items()}
    value = {"probe": name_of(probe), "options": own, "model": vectors.facts(), "data": data, "code": code_digest()}
    out: dict[str, Any] = json.loads(as_text(value))
    return out


@lru_cache(maxsize=1)
def code_digest() -> str:
    """12 hexadecimal digits of this room's source: another version makes its results again."""
    total = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        total.update(path.read_bytes())
    return total.hexdigest()[:12]


class Store:
    """A folder of results, one JSON file each, named after the probe and the hash of its settings.

    Args:
        folder: made when the first result is put there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, settings: dict[str, Any]) -> Path:
        """Where the result of settings is."""
        key = hashlib.sha256(as_text(settings).encode()).hexdigest()[:16]
        return self.folder / f"{settings['probe']}-{key}.json"

    def get(self, settings: dict[str, Any]) -> Report | None:
        """The result of these very settings, or None."""
        try:
            report = Report.from_json(json.loads(self.path(settings).read_text("utf-8")))
        except (OSError, ValueError):  # InputError is a ValueError: a damaged result is made again
            return None
        return report if as_text(report.settings) == as_text(settings) else None

    def put(self, report: Report) -> Path:
        """Keep a result; returns where it is.

        Raises:
            InputError: the folder cannot be written.
        """
        path = self.path(dict(report.settings))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(
                path, (json.dumps(report.to_json(), ensure_ascii=False, indent=1) + "\n").encode("utf-8", "replace")
            )
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error.strerror or error}): choose another folder") from None
        return path


def evaluate(vectors: Vectors, sets: Sets, probe: Probe, store: Store | None = None) -> Report:
    """Run one probe, or take its result from the store where nothing changed.

    A model without a fingerprint is always measured: nobody could tell that it changed.
    """
    settings = settings_of(probe, vectors, sets)
    if store is not None and vectors.fingerprint:
        known = store.get(settings)
        if known is not None:
            return replace(known, model=vectors.name)
    usable = Sets(**{name: vectors.readable(part) for name, part in sets.parts().items()})
    report = probe.run(vectors, usable)
    bad = {f"{name} {key}": why for name, part in usable.parts().items() for key, why in part.bad.items()}
    notes = (*report.notes, *(note for part in usable.parts().values() for note in part.notes))
    if bad:
        key, why = next(iter(bad.items()))
        notes = (*notes, f"left out as unreadable: {len(bad)}, the first is {key} ({why})")
    report = replace(report, notes=notes, settings=settings)
    if store is not None:
        store.put(report)
    return report
