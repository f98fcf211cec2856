"""Build hook: the wheel carries the list of cards, so that `methods list` reads one file instead of two hundred."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CardsHook(BuildHookInterface):
    """Writes ``_cards.json`` into the wheel, never into the source tree of an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Read the literal cards and add their list to the wheel."""
        if version == "editable":
            return
        root = Path(self.root)
        sys.path.insert(0, str(root / "src"))
        try:
            from binderclip.cards import dump_cards

            out = root / "build" / "_cards.json"
            out.parent.mkdir(exist_ok=True)
            out.write_text(dump_cards(), encoding="utf-8")
        finally:
            sys.path.pop(0)
        build_data["force_include"][str(out)] = "binderclip/_cards.json"
