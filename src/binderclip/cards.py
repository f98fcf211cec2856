"""What there is: one literal ``CARD = Card(...)`` in each method's file, found by reading, never by importing.

``methods list`` therefore needs no torch and answers at once; a class is imported when it is first used. Other packages add
methods through the entry-point group ``binderclip.methods``, whose values name modules that hold a card.
"""

from __future__ import annotations

import ast
import csv
import difflib
import hashlib
import importlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from binderclip.errors import InputError, UnknownNameError

__all__ = ["Card", "cards", "code_hash", "coverage", "find", "load_method", "read_card", "systems"]

PLUGIN_GROUP = "binderclip.methods"
_MARK = "CARD = Card("


@dataclass(frozen=True)
class Card:
    """What a method is, as a literal in its file.

    Attributes:
        slug: the name to ask for it by (``maple``); unique.
        name: as the field writes it (``MaPLe``).
        title: of the paper.
        arxiv: number of the paper, or empty.
        year: of the paper.
        room: the folder it lives in, which is the kind of thing it does.
        provides: the class or function in the file (``MaPLe``).
        kind: the protocol it follows (``Adapter``, ``Surgery``, ...).
        verb: of the command line (``fit``), or empty where there is none.
        needs: what it asks of a model (``image.tokens``, ``image.attention``, ...).
        baseline: what systems are compared with, or a part of one: in no list of systems.
        claim: what its paper says of it, in few words and figures; `binderclip bench` shows it beside what it measured.
        files: other files of ours that belong to it, from the package's root.
        must_show: each line of its specification -> a test id, ``bench:RECORD``, or ``missed:RECORD: reason``.
        module: where it was found; filled in by the reader.
        source: the package that brings it; filled in by the reader.
    """

    slug: str
    name: str
    title: str
    room: str
    provides: str
    kind: str
    arxiv: str = ""
    year: int = 0
    verb: str = ""
    needs: tuple[str, ...] = ()
    baseline: bool = False
    claim: str = ""
    files: tuple[str, ...] = ()
    must_show: Mapping[str, str] = field(default_factory=dict)
    module: str = ""
    source: str = "binderclip"

    @property
    def status(self) -> str:
        """``implemented`` when every line is tested, recorded or reported as missed; else ``partial``."""
        proofs = list(self.must_show.values())
        return "implemented" if proofs and all(proofs) else "partial"

    @property
    def missed(self) -> list[str]:
        """Lines that were measured and not reached."""
        return [line for line, proof in self.must_show.items() if proof.startswith("missed:")]


def read_card(path: Path, module: str, source: str = "binderclip") -> Card | None:
    """The card in a source file, read with ``ast``; ``None`` when there is none.

    Raises:
        InputError: the card is not a literal, or has a field that cards do not have.
    """
    text = path.read_text(encoding="utf-8")
    if _MARK not in text:
        return None
    for node in ast.parse(text).body:
        if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)):
            continue
        if [getattr(target, "id", None) for target in node.targets] != ["CARD"]:
            continue
        try:
            fields = {str(key.arg): ast.literal_eval(key.value) for key in node.value.keywords}
            return Card(**fields, module=module, source=source)
        except (ValueError, TypeError) as error:
            raise InputError(f"{path.name}: its CARD must be a literal with the fields of Card ({error})") from None
    return None


@lru_cache(maxsize=1)
def cards() -> dict[str, Card]:
    """Every card by its slug, ours first, then those of installed packages.

    Raises:
        InputError: two methods of one slug.
    """
    found: dict[str, Card] = {}
    for card in [*_own_cards(), *_plugin_cards()]:
        if card.slug in found:
            other = found[card.slug]
            raise InputError(f"two methods are called {card.slug!r}: {other.module} and {card.module}; rename one")
        found[card.slug] = card
    return found


def find(slug: str) -> Card:
    """The card of a method.

    Raises:
        UnknownNameError: there is none; the message offers close names.
    """
    known = cards()
    key = slug.lower().replace("-", "_")
    if key in known:
        return known[key]
    close = difflib.get_close_matches(key, known, n=3)
    hint = f"did you mean {', '.join(close)}?" if close else "`binderclip methods list` shows all"
    raise UnknownNameError(f"no method is called {slug!r}: {hint}")


def load_method(slug: str) -> Any:
    """Import the class or function of a method."""
    card = find(slug)
    return getattr(importlib.import_module(card.module), card.provides)


def code_hash(card: Card, package: Path | None = None) -> str:
    """12 hexadecimal digits of a method's code: the syntax trees of its files, without the card and the docstrings.

    A record of a benchmark keeps it, so that a figure is known to be of the code as it is; words may change.

    Args:
        card: whose ``module`` and ``files`` are read.
        package: folder of the package; this one's by default.
    """
    root = package or Path(str(resources.files("binderclip")))
    own = card.module.partition(".")[2].replace(".", "/") + ".py"
    total = hashlib.sha256()
    for name in (own, *card.files):
        tree = ast.parse((root / name).read_text(encoding="utf-8"))
        tree.body = [node for node in tree.body if not _is_card(node)]
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        total.update(ast.dump(tree).encode())
    return total.hexdigest()[:12]


def _is_card(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and [getattr(target, "id", None) for target in node.targets] == ["CARD"]


def systems() -> list[dict[str, str]]:
    """The systems this library sets out to hold: id, name, title, room, slug."""
    text = (resources.files("binderclip") / "assets" / "systems.tsv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))


def coverage() -> dict[str, Any]:
    """How many of the systems are implemented: ``{"implemented", "partial", "total", "missed"}``."""
    known, wanted = cards(), systems()
    have = [known[row["slug"]] for row in wanted if row["slug"] in known]
    return {
        "implemented": sum(card.status == "implemented" for card in have),
        "partial": sum(card.status == "partial" for card in have),
        "total": len(wanted),
        "missed": [f"{card.slug}: {line}" for card in have for line in card.missed],
    }


def scan_package() -> list[Card]:
    """Read the cards of this package from its source files."""
    root = Path(__file__).parent
    found = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        card = None if parts == ("cards",) else read_card(path, ".".join(("binderclip", *parts)))
        if card is not None:
            found.append(card)
    return found


def _own_cards() -> list[Card]:
    built = Path(__file__).with_name("_cards.json")
    if not built.is_file():  # a checkout: the list is made when the wheel is built
        return scan_package()
    rows = json.loads(built.read_text(encoding="utf-8"))
    return [_from_json(row) for row in rows]


def _from_json(row: dict[str, Any]) -> Card:
    return Card(**row | {"needs": tuple(row["needs"]), "files": tuple(row["files"])})


def dump_cards() -> str:
    """The list that is built into the wheel."""
    return json.dumps([asdict(card) for card in scan_package()], indent=1)


def _plugin_cards() -> Iterator[Card]:
    for entry in metadata.entry_points(group=PLUGIN_GROUP):
        path = _plugin_source(entry)
        package = entry.dist.name if entry.dist else entry.module.split(".")[0]
        card = read_card(path, entry.module, source=package) if path else None
        if card is None:
            raise InputError(f"the entry point {entry.name!r} of {package} names {entry.module}, which holds no CARD")
        yield card


def _plugin_source(entry: metadata.EntryPoint) -> Path | None:
    """The file of a plugin's module: from the list of installed files, so that nothing of it runs."""
    relative = entry.module.replace(".", "/")
    if entry.dist is not None:
        for name in (f"{relative}.py", f"{relative}/__init__.py"):
            path = Path(str(entry.dist.locate_file(name)))
            if path.is_file():
                return path
    spec = importlib.util.find_spec(entry.module)  # an editable install: only the import system knows where it is
    return Path(spec.origin) if spec and spec.origin else None
