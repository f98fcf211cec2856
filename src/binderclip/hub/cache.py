"""Where downloaded models live; fetching, listing and removing them.

One folder a model, ``<cache>/models/<owner>--<model>``, with its files as the hub serves them. A model that another tool
has already put in Hugging Face's own cache is read from there and never removed by us.
"""

from __future__ import annotations

import os
import shutil
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from binderclip.errors import (
    BinderclipError,
    CheckpointError,
    InputError,
    NeedsExtraError,
    OfflineError,
    UnknownNameError,
)

__all__ = ["Cached", "cache_folder", "cached", "fetch", "location", "remove"]

_WEIGHTS = (
    "open_clip_model.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
)
_SMALL = ("open_clip_config.json", "config.json", "preprocessor_config.json", "tokenizer.json", "README.md", "LICENSE")
_DONE = ".complete"


@dataclass(frozen=True)
class Cached:
    """A model on this machine.

    Attributes:
        repo: ``owner/model``.
        folder: where its files are.
        bytes: their size.
    """

    repo: str
    folder: Path
    bytes: int


def cache_folder() -> Path:
    """``$BINDERCLIP_CACHE``, or the user's cache folder for binderclip."""
    given = os.environ.get("BINDERCLIP_CACHE")
    return Path(given) if given else Path(platformdirs.user_cache_dir("binderclip"))


def _own(repo: str) -> Path:
    return cache_folder() / "models" / repo.replace("/", "--")


def _hub_cache(repo: str) -> Path | None:
    """A snapshot that Hugging Face's tools have downloaded, if its config is whole."""
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    root = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    snapshots = root / f"models--{repo.replace('/', '--')}" / "snapshots"
    if not snapshots.is_dir():
        return None
    whole = [p for p in snapshots.iterdir() if _is_whole(p)]
    return max(whole, key=lambda p: p.stat().st_mtime) if whole else None


def _is_whole(folder: Path) -> bool:
    config = any((folder / name).is_file() for name in _SMALL[:2])
    return config and any((folder / name).is_file() for name in _WEIGHTS)


def location(repo: str) -> Path | None:
    """The local folder of a model, or ``None`` when it must be downloaded."""
    own = _own(repo)
    return own if (own / _DONE).is_file() else _hub_cache(repo)


def fetch(repo: str) -> Path:
    """The local folder of a model, downloaded first if need be.

    Raises:
        NeedsExtraError: a download needs ``huggingface_hub``.
        OfflineError: the network does not answer or is switched off.
        UnknownNameError: the hub has no such model.
        CheckpointError: the model's page holds no weights of a kind we read.
    """
    found = location(repo)
    if found is not None:
        return found
    if os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"):
        raise OfflineError(f"{repo} is not on this machine and HF_HUB_OFFLINE is set: unset it, or give a local folder")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when the library is imported
    try:
        import huggingface_hub
    except ImportError:
        raise NeedsExtraError(f"downloading {repo}", "hf") from None
    folder = _own(repo)
    _knock(repo)
    try:
        names = _choose(repo, list(huggingface_hub.list_repo_files(repo)))
        for name in names:  # each file is written aside and renamed; a stop keeps the whole ones
            huggingface_hub.hf_hub_download(repo, name, local_dir=folder)
    except BinderclipError:
        raise
    except Exception as error:
        raise _explain(repo, error) from None
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    (folder / _DONE).touch()
    return folder


def _knock(repo: str) -> None:
    """Find out in a second whether the hub answers: its own client tries for half a minute, and says so five times."""
    try:
        from huggingface_hub import constants
    except ImportError:  # an older or a stand-in client: let it try
        return
    address = urllib.parse.urlsplit(constants.ENDPOINT)
    if not address.hostname or urllib.request.getproxies():
        return
    try:
        socket.create_connection((address.hostname, address.port or 443), timeout=5).close()
    except OSError:
        raise OfflineError(
            f"{repo} is not on this machine and the hub does not answer: check the network, or give a folder"
        ) from None


def _choose(repo: str, files: list[str]) -> list[str]:
    """The config files, and one set of weights: safetensors before pickles, open_clip's before others."""
    weights = next((name for name in _WEIGHTS if name in files), None)
    if weights is None:
        raise CheckpointError(f"{repo} holds none of {', '.join(_WEIGHTS)}: it is no CLIP that is known")
    shards = [f for f in files if f.startswith("model-") and f.endswith(".safetensors") and "/" not in f]
    return [*(name for name in _SMALL if name in files), *(shards if weights.endswith(".json") else ()), weights]


def _explain(repo: str, error: Exception) -> BinderclipError:
    kind = type(error).__name__
    if kind in ("RepositoryNotFoundError", "RevisionNotFoundError", "HFValidationError"):
        return UnknownNameError(f"the hub has no public model {repo!r}: check the name (`binderclip models ls`)")
    if kind == "GatedRepoError":
        return CheckpointError(f"{repo} asks you to accept its terms first: open its page on the hub, then log in")
    if isinstance(error, OSError) and error.errno == 28:
        return InputError(f"no space left for {repo} in {cache_folder()}: free some, or set BINDERCLIP_CACHE")
    return OfflineError(f"{repo} could not be downloaded ({kind}): check the network, or give a local folder")


def cached() -> Iterator[Cached]:
    """Models that we downloaded, by name."""
    root = cache_folder() / "models"
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if (folder / _DONE).is_file():
            size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
            yield Cached(folder.name.replace("--", "/", 1), folder, size)


def remove(repo: str) -> int:
    """Delete a downloaded model.

    Returns:
        Bytes freed.

    Raises:
        UnknownNameError: it was not downloaded by us.
    """
    folder = _own(repo)
    if not folder.is_dir():
        raise UnknownNameError(f"{repo} is not among the downloaded models: `binderclip models ls --cached` lists them")
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    (folder / _DONE).unlink(missing_ok=True)  # first: a stop half way leaves no model that looks whole
    shutil.rmtree(folder)
    return size
