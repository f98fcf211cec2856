"""Reading a JSON object, with one line on what to do when it cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from binderclip.errors import CheckpointError

__all__ = ["read_json"]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CheckpointError: missing, not JSON, or no object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} has no {path.name}: copy the whole folder of the model") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not readable JSON ({error}): fetch it again") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds no JSON object: fetch it again")
    return found
