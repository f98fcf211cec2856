"""`--set name=value`: options of a method by its constructor's signature."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from typing import Any

from binderclip.errors import InputError

__all__ = ["method_options"]


def method_options(method: Any, slug: str, texts: Sequence[str]) -> dict[str, Any]:
    """Values by name: JSON where it is JSON, a string otherwise. What comes first in the signature is no option.

    Args:
        method: class or function.
        slug: its name, for messages.
        texts: ``name=value``.

    Raises:
        InputError: not of that form, or the method has no such option.
    """
    _first, *rest = inspect.signature(method).parameters.values()
    open_ended = any(p.kind is p.VAR_KEYWORD for p in rest)
    known = {p.name: p.default for p in rest if p.kind is not p.VAR_KEYWORD}
    given: dict[str, Any] = {}
    for text in texts:
        name, mark, value = text.partition("=")
        if not mark or not name.strip().isidentifier():
            raise InputError(f"--set {text!r} is not understood: write it as name=value, with a number or a word")
        if name.strip() not in known and not open_ended:
            has = ", ".join(f"{key}={default}" for key, default in known.items()) or "none"
            raise InputError(f"{slug} has no option {name.strip()!r}: it has {has}")
        try:
            given[name.strip()] = json.loads(value)
        except ValueError:
            given[name.strip()] = value
    return given
