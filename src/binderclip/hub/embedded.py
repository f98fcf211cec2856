"""Finding a checkpoint folder without torch: the models inside the package, and folders of the user's."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

__all__ = ["checkpoint_folder", "embedded_models"]


def embedded_models() -> dict[str, Path]:
    """Names and folders of the models that come with the package."""
    assets = Path(str(resources.files("binderclip") / "assets"))
    return {folder.name: folder for folder in sorted(assets.iterdir()) if (folder / "config.json").is_file()}


def checkpoint_folder(name: str) -> Path | None:
    """The folder of an embedded model, or of a path that holds ``config.json`` and ``model.safetensors``; else ``None``."""
    embedded = embedded_models()
    if name in embedded:
        return embedded[name]
    folder = Path(name)
    if (folder / "model.safetensors").is_file() and (folder / "config.json").is_file():
        return folder
    return None
