"""What ``binderclip models ls | show | pull | rm`` tells and does, as plain rows; nothing here needs torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from binderclip.errors import InputError
from binderclip.hub import cache
from binderclip.hub.embedded import embedded_models
from binderclip.hub.jsons import read_json
from binderclip.hub.zoo import Entry, entries, find

__all__ = ["ModelRow", "list_models", "pull_model", "remove_model", "show_model"]


@dataclass(frozen=True)
class ModelRow:
    """One line of the list.

    Attributes:
        name: what ``load`` takes.
        params: millions of parameters; 0 where unknown.
        bytes: size on this machine; 0 where it is not here.
        licence: as its page states it.
        languages: of the texts it was trained on.
        where: folder on this machine, or empty.
        kind: ``embedded``, ``cached`` (downloaded by us or another tool) or ``online``.
    """

    name: str
    params: int
    bytes: int
    licence: str
    languages: str
    where: str
    kind: str

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


def list_models(word: str = "", *, cached_only: bool = False) -> list[ModelRow]:
    """Embedded models, then published ones in the table's order, then downloads that are not in it.

    Args:
        word: only names, hub names and licences that contain it.
        cached_only: only what is on this machine.
    """
    rows = [_embedded(name, folder) for name, folder in embedded_models().items()]
    known = entries()
    rows += [_published(entry) for entry in known]
    repos = {entry.repo.lower() for entry in known}
    rows += [_published(find(item.repo)) for item in cache.cached() if item.repo.lower() not in repos]
    word = word.lower()
    matching = [row for row in rows if word in f"{row.name} {row.licence} {row.languages} {row.where}".lower()]
    return [row for row in matching if row.where or not cached_only]


def show_model(name: str) -> dict[str, Any]:
    """Everything known about one model; an embedded model's card is under ``card``.

    Raises:
        UnknownNameError: nothing of that name.
        CheckpointError: a family that is not supported yet.
    """
    embedded = embedded_models()
    if name in embedded:
        folder = embedded[name]
        card = folder / "MODEL_CARD.md"
        text = card.read_text(encoding="utf-8") if card.is_file() else ""
        return {**_embedded(name, folder).to_dict(), **_config(folder), "card": text}
    path = Path(name)
    if path.is_dir():
        config = _config(path)
        row = ModelRow(name, 0, _size(path), "see its files", "see its files", str(path), "folder")
        return {**row.to_dict(), **config}
    entry = find(name)
    row = _published(entry)
    details: dict[str, Any] = {"repo": entry.repo, "aliases": list(entry.aliases), "activation": entry.activation}
    return {**row.to_dict(), **details, **(_config(Path(row.where)) if row.where else {})}


def pull_model(name: str) -> Path:
    """Download a published model, if it is not on this machine, and say where it is.

    Raises:
        OfflineError, NeedsExtraError, UnknownNameError, CheckpointError: as ``binderclip.hub.cache.fetch``.
    """
    embedded = embedded_models()
    return embedded[name] if name in embedded else cache.fetch(find(name).repo)


def remove_model(name: str) -> int:
    """Delete a downloaded model.

    Returns:
        Bytes freed.

    Raises:
        InputError: it comes with the package.
        UnknownNameError: it was not downloaded by us.
    """
    if name in embedded_models():
        raise InputError(f"{name} comes with the package and is not a download: nothing was removed")
    return cache.remove(find(name).repo)


def _embedded(name: str, folder: Path) -> ModelRow:
    config = read_json(folder / "config.json")
    return ModelRow(
        name,
        round(config.get("params", 0) / 1e6),
        _size(folder),
        str(config.get("licence", "see its card")),
        ", ".join(config.get("languages", ["English"])),
        str(folder),
        "embedded",
    )


def _published(entry: Entry) -> ModelRow:
    folder = cache.location(entry.repo)
    where, size, kind = ("", 0, "online") if folder is None else (str(folder), _size(folder), "cached")
    return ModelRow(entry.name, entry.params, size, entry.licence, entry.languages, where, kind)


def _config(folder: Path) -> dict[str, Any]:
    """What the config file says, under ``config``."""
    for name in ("open_clip_config.json", "config.json"):
        if (folder / name).is_file():
            return {"config": {k: v for k, v in read_json(folder / name).items() if k != "probe"}}
    return {"config": {}}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
