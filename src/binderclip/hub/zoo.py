"""The table of published models: what a name means, where its files are, and under which licence.

A row's name is open_clip's architecture and tag, ``ViT-B-32/laion2b_s34b_b79k``; OpenAI's own names (``ViT-B/32``), an
architecture with one obvious set of weights (``ViT-B-32`` is OpenAI's), and hub names (``owner/model``) lead there too.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

from binderclip.errors import CheckpointError, UnknownNameError

__all__ = ["Entry", "entries", "find", "resolve"]

# Families whose towers are not here yet, by how their names begin.
_TO_COME = {
    "coca_": "CoCa",
    "eva": "EVA-CLIP",
    "mobileclip": "MobileCLIP",
    "vitamin": "ViTamin",
    "pe-core": "Perception Encoder",
    "nllb-clip": "NLLB-CLIP",
    "clipa": "CLIPA",
    "jina": "jina-clip",
    "altclip": "AltCLIP",
    "chinese-clip": "Chinese-CLIP",
    "ofa-sys/chinese-clip": "Chinese-CLIP",
    "baai/eva": "EVA-CLIP",
    "baai/altclip": "AltCLIP",
    "jinaai/": "jina-clip",
    "ucsc-vlaa/": "CLIPA",
    "apple/mobileclip": "MobileCLIP",
}


@dataclass(frozen=True)
class Entry:
    """One published model.

    Attributes:
        name: ``architecture/tag``.
        repo: ``owner/model`` on the Hugging Face hub.
        params: millions of parameters, both towers.
        licence: as its page states it.
        languages: of the texts it was trained on.
        activation: set where the published config is known to leave it open.
        aliases: other names for it.
    """

    name: str
    repo: str
    params: int
    licence: str
    languages: str = "en"
    activation: str | None = None
    aliases: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def entries() -> tuple[Entry, ...]:
    """All rows, in the table's order."""
    text = resources.files("binderclip.hub").joinpath("zoo.tsv").read_text(encoding="utf-8")
    rows = []
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        name, repo, params, licence, languages, activation, aliases = line.split("\t")
        rows.append(Entry(name, repo, int(params), licence, languages, activation or None, tuple(aliases.split())))
    return tuple(rows)


@lru_cache(maxsize=1)
def _by_name() -> dict[str, Entry]:
    table: dict[str, Entry] = {}
    for entry in entries():
        for name in (entry.name, *entry.aliases):
            table[name.lower()] = entry
    for entry in entries():  # a hub name means the first row that uses it
        table.setdefault(entry.repo.lower(), entry)
    return table


def find(name: str) -> Entry:
    """The row of a name, in any of its spellings; a hub name outside the table gets a row of its own.

    Raises:
        CheckpointError: a family that is known and not supported yet.
        UnknownNameError: nothing of that name; close ones are named.
    """
    known = _by_name().get(name.lower())
    if known is not None:
        return known
    arch, _, tag = name.partition("/")
    if arch.lower().endswith("-quickgelu"):
        entry = _by_name().get(f"{arch[: -len('-quickgelu')]}/{tag or 'openai'}".lower())
        if entry is not None:
            return Entry(name, entry.repo, entry.params, entry.licence, entry.languages, "quick_gelu")
    _refuse_family(name)
    if _looks_like_repo(name):
        return Entry(name, name, 0, "see its page", "see its page")
    close = _close(name)
    hint = f"did you mean {' or '.join(close)}?" if close else "`binderclip models ls` shows all"
    raise UnknownNameError(f"no file, folder or published model is called {name!r}: {hint}")


def _refuse_family(name: str) -> None:
    lowered = name.lower()
    for start, family in _TO_COME.items():
        if (
            lowered.startswith(start)
            or lowered.split("/")[-1].startswith(start)
            or (start == "clipa" and "-clipa" in lowered)
        ):
            raise CheckpointError(f"{family} models are not supported yet: `binderclip models ls` shows what is")


def _looks_like_repo(name: str) -> bool:
    """``owner/model``: one slash, no path, and no architecture of the table before it."""
    owner, _, model = name.partition("/")
    archs = {entry.name.split("/")[0].lower() for entry in entries()}
    plain = all(part and part.replace("-", "").replace("_", "").replace(".", "").isalnum() for part in (owner, model))
    return "/" not in model and plain and owner.lower() not in archs and not name.startswith((".", "~"))


def _close(name: str) -> list[str]:
    """Names that look like it, closest first, each model once."""
    from binderclip.hub.embedded import embedded_models

    table = _by_name()
    candidates = {**{k: e.name for k, e in table.items()}, **{k: k for k in embedded_models()}}
    found = difflib.get_close_matches(name.lower(), list(candidates), n=6, cutoff=0.6)
    return list(dict.fromkeys(candidates[key] for key in found))[:3]


def resolve(name: str | Path) -> Path:
    """The local folder of a model: embedded, a path, or published (downloaded if need be).

    Raises:
        CheckpointError, UnknownNameError: as ``find``.
        OfflineError: it is not cached and the network does not answer.
        NeedsExtraError: a download needs the extra ``hf``.
    """
    from binderclip.hub import cache
    from binderclip.hub.embedded import embedded_models

    embedded = embedded_models()
    if str(name) in embedded:
        return embedded[str(name)]
    path = Path(name)
    if path.exists():
        return path if path.is_dir() else path.parent
    return cache.fetch(find(str(name)).repo)
