"""Walks folders for pictures and videos: in one order, round links, past what cannot be read."""

from __future__ import annotations

import fnmatch
import importlib.util
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["ALWAYS_IGNORED", "Found", "Scan", "scan"]

# Folders in which programs keep copies and thumbnails of the user's pictures, or what the user threw away.
ALWAYS_IGNORED = ("@eaDir", "$RECYCLE.BIN", "System Volume Information", "__MACOSX", ".Trash-*")

_MODULE_OF_EXTRA = {"heic": "pillow_heif", "raw": "rawpy", "video": "av"}


@dataclass(frozen=True, slots=True)
class Found:
    """One file: its absolute path as the system's bytes, and what tells that it changed."""

    path: bytes
    size: int
    mtime_ns: int


@dataclass
class Scan:
    """What a walk found.

    Args:
        files: the pictures and videos, ordered by path, each once.
        roots: the absolute paths that were walked and are there.
        absent: paths asked for that are not there.
        unreadable: folders that could not be listed, with the reason.
        needs: extra -> how many files were left out because it is not installed.
    """

    files: list[Found] = field(default_factory=list)
    roots: list[bytes] = field(default_factory=list)
    absent: list[bytes] = field(default_factory=list)
    unreadable: dict[bytes, str] = field(default_factory=dict)
    needs: dict[str, int] = field(default_factory=dict)


def scan(
    paths: Sequence[str | os.PathLike[str]],
    suffixes: Collection[str],
    optional: Mapping[str, str] | None = None,
    *,
    ignore: Sequence[str] = (),
    include_hidden: bool = False,
) -> Scan:
    """Walks files and folders, depth first, names in the order of their bytes.

    A folder is entered once however many links lead to it, so a loop of links ends. A file that is named itself is
    taken whatever its suffix; hidden names are left out only below a folder that was named.

    Args:
        paths: files and folders.
        suffixes: what a picture's name ends with, lower case with the dot.
        optional: suffix -> extra that reads it; counted in `needs` while the extra is not installed.
        ignore: patterns as in a .gitignore: `*.png`, `thumbs/`, `2019/*/raw`.
        include_hidden: take names that begin with a dot too.

    Returns:
        What was found; nothing is raised for what cannot be read.
    """
    out = Scan()
    walk = _Walk(out, suffixes, optional or {}, _Patterns((*ALWAYS_IGNORED, *ignore)), include_hidden)
    for path in paths:
        walk.root(os.path.abspath(os.path.expanduser(os.fspath(path))))
    unique = {file.path: file for file in out.files}
    out.files = [unique[path] for path in sorted(unique)]
    return out


class _Patterns:
    """Ignore patterns: one without a slash matches a name anywhere, one with a slash a path below the root."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._rules: list[tuple[re.Pattern[str], bool, bool]] = []
        for text in patterns:
            bare = text.rstrip("/")
            anchored = "/" in bare
            self._rules.append((re.compile(fnmatch.translate(bare.lstrip("/"))), anchored, text.endswith("/")))

    def match(self, relative: str, is_folder: bool) -> bool:
        name = relative.rsplit("/", 1)[-1]
        return any(
            rule.match(relative if anchored else name)
            for rule, anchored, folders_only in self._rules
            if is_folder or not folders_only
        )


class _Walk:
    def __init__(
        self,
        out: Scan,
        suffixes: Collection[str],
        optional: Mapping[str, str],
        ignore: _Patterns,
        include_hidden: bool,
    ) -> None:
        self.out, self.ignore, self.include_hidden = out, ignore, include_hidden
        self.suffixes = frozenset(suffixes) - frozenset(optional)
        self.lacking: dict[str, str] = {}
        for suffix, extra in optional.items():
            if importlib.util.find_spec(_MODULE_OF_EXTRA.get(extra, extra)) is None:
                self.lacking[suffix] = extra
            else:
                self.suffixes |= {suffix}
        self.entered: set[tuple[int, int]] = set()

    def root(self, path: str) -> None:
        try:
            facts = os.stat(path)
        except OSError:
            self.out.absent.append(os.fsencode(path))
            return
        self.out.roots.append(os.fsencode(path))
        if stat.S_ISDIR(facts.st_mode):
            self.folder(path, "")
        else:
            self.file(path, facts, named=True)

    def folder(self, path: str, relative: str) -> None:
        # A stack, not recursion: a chain of ten thousand folders is somebody's real disk.
        stack = [(path, relative)]
        while stack:
            here, below = stack.pop()
            deeper = []
            for entry in self._entries(here):
                name = f"{below}/{entry.name}" if below else entry.name
                try:
                    is_folder = entry.is_dir()
                    if (entry.name.startswith(".") and not self.include_hidden) or self.ignore.match(name, is_folder):
                        continue
                    if is_folder:
                        deeper.append((entry.path, name))
                    elif self._suffix(entry.name):
                        self.file(entry.path, entry.stat(), named=False)
                except OSError:
                    continue  # a link to nowhere, or a file that went away
            stack.extend(reversed(deeper))

    def _entries(self, folder: str) -> Iterator[os.DirEntry[str]]:
        try:
            facts = os.stat(folder)
            if (facts.st_dev, facts.st_ino) in self.entered:
                return
            self.entered.add((facts.st_dev, facts.st_ino))
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            self.out.unreadable[os.fsencode(folder)] = error.strerror or str(error)
            return
        yield from listed

    def _suffix(self, name: str) -> bool:
        suffix = Path(name).suffix.lower()
        if extra := self.lacking.get(suffix):
            self.out.needs[extra] = self.out.needs.get(extra, 0) + 1
            return False
        return suffix in self.suffixes

    def file(self, path: str, facts: os.stat_result, *, named: bool) -> None:
        if not stat.S_ISREG(facts.st_mode):
            return  # a pipe or a device would block, or never end
        if named and (extra := self.lacking.get(Path(path).suffix.lower())):
            self.out.needs[extra] = self.out.needs.get(extra, 0) + 1
            return
        self.out.files.append(Found(os.fsencode(path), facts.st_size, facts.st_mtime_ns))
