"""Probes, one a file: `zero_shot.py` holds `ZeroShot`, which is asked for as "zero-shot". A new file is a new probe."""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binderclip.errors import UnknownNameError

if TYPE_CHECKING:
    from binderclip.evaluate.base import Probe

__all__ = ["load", "name_of", "names"]


def names() -> list[str]:
    """Names of all probes, as the command line writes them."""
    return sorted(path.stem.replace("_", "-") for path in Path(__file__).parent.glob("[a-z]*.py"))


def load(name: str, **options: Any) -> Probe:
    """A probe by its name.

    Args:
        name: as in "zero-shot" or "zero_shot".
        options: its settings, where they differ from the defaults.

    Raises:
        UnknownNameError: there is none of that name.
    """
    wanted = name.strip().lower().replace("_", "-")
    if wanted not in names():
        close = difflib.get_close_matches(wanted, names(), n=2)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(names())}"
        raise UnknownNameError(f"no probe is called {name!r}: {hint}")
    stem = wanted.replace("-", "_")
    module = importlib.import_module(f"binderclip.evaluate.probes.{stem}")
    folded = stem.replace("_", "")
    made: Probe = next(
        value for key, value in vars(module).items() if key.lower() == folded and isinstance(value, type)
    )(**options)
    return made


def name_of(probe: object) -> str:
    """The name a probe is asked for by: its file's."""
    return type(probe).__module__.rsplit(".", 1)[-1]
