"""Checkpoint layouts, the table of published models, and the embedded models.

``hub.load(name_or_path)`` gives a CLIP; ``hub.resolve(name_or_path)`` the folder with its files. Importing this package
does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from binderclip.hub.zoo import resolve

if TYPE_CHECKING:
    from pathlib import Path

    from binderclip.model.clip import CLIP

__all__ = ["load", "resolve"]


def load(name: str | Path, **options: Any) -> CLIP:
    """A CLIP from a name, a folder or a file: see ``binderclip.hub.loader.load``.

    Raises:
        NeedsExtraError: torch is not installed.
    """
    try:
        import torch  # noqa: F401
    except ImportError:
        from binderclip.errors import NeedsExtraError

        raise NeedsExtraError("loading a checkpoint as a module", "torch") from None
    from binderclip.hub.loader import load as load_

    clip = load_(name, **options)
    clip.decode = _decode
    return clip


def _decode(source: Any) -> Any:
    """The guarded decoder, so that a CLIP sees what an Encoder sees."""
    from binderclip.data.media import open_image

    return open_image(source).image
