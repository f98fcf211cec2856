"""Every line of a card's `must_show` leads to a test that exists, or to a record made by the code as it is."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from binderclip import cards as registry
from binderclip.cards import Card

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benchmarks" / "records"


def collected_in(path: Path) -> set[str]:
    """Names that pytest would collect from a file: functions, and methods as `Class::name`."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            found |= {
                f"{node.name}::{n.name}"
                for n in node.body
                if isinstance(n, ast.FunctionDef) and n.name.startswith("test")
            }
    return found


def made_by(path: Path) -> dict[str, str]:
    """Slug to hash of the code of the methods that a record measured."""
    methods: dict[str, str] = json.loads(path.read_text(encoding="utf-8")).get("methods", {})
    return methods


def faults(card: Card, root: Path = ROOT, records: Path = RECORDS) -> list[str]:
    """What is wrong with the proofs of a card."""
    wrong = []
    for line, proof in card.must_show.items():
        where = f"{card.slug}: {line!r}"
        if not proof:
            continue  # not proved yet: the card counts as partial
        if proof.startswith(("bench:", "missed:")):
            kind, _, rest = proof.partition(":")
            name, _, reason = rest.partition(":")
            path = records / f"{name}.json"
            if not path.is_file():
                wrong.append(f"{where} names the record {name}, which is not there")
            elif made_by(path).get(card.slug) != registry.code_hash(card, root / "src" / "binderclip"):
                wrong.append(f"{where}: the record {name} was made by other code; run its command again")
            if kind == "missed" and not reason.strip():
                wrong.append(f"{where} is missed without a figure and a reason")
            continue
        file, _, test = proof.partition("::")
        if not (root / file).is_file() or test.split("[")[0] not in collected_in(root / file):
            wrong.append(f"{where} names {proof}, which pytest does not collect")
    return wrong


@pytest.mark.parametrize("slug", sorted(registry.cards()) or [None])
def test_proofs_of_a_card(slug: str | None) -> None:
    if slug is not None:
        assert faults(registry.cards()[slug]) == []


def test_faults_are_seen(tmp_path: Path) -> None:
    source = tmp_path / "src" / "binderclip" / "adapt"
    source.mkdir(parents=True)
    (source / "toy.py").write_text("X = 1\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_toy.py").write_text(
        "def test_one(): ...\nclass TestMore:\n    def test_two(self): ...\n"
    )
    records = tmp_path / "records"
    records.mkdir()
    card = Card("toy", "Toy", "T", "adapt", "Toy", "Adapter", module="binderclip.adapt.toy", must_show={})

    def with_proof(proof: str) -> list[str]:
        from dataclasses import replace

        return faults(replace(card, must_show={"line": proof}), tmp_path, records)

    assert with_proof("tests/test_toy.py::test_one") == []
    assert with_proof("tests/test_toy.py::test_one[3]") == []
    assert with_proof("tests/test_toy.py::TestMore::test_two") == []
    assert "does not collect" in with_proof("tests/test_toy.py::test_three")[0]
    assert "does not collect" in with_proof("tests/none.py::test_one")[0]
    assert "not there" in with_proof("bench:toy")[0]
    (records / "toy.json").write_text(
        json.dumps({"methods": {"toy": registry.code_hash(card, tmp_path / "src" / "binderclip")}})
    )
    assert with_proof("bench:toy") == []
    assert with_proof("missed:toy: 0.3, wanted 0.4; our towers are small") == []
    assert "without a figure" in with_proof("missed:toy")[0]
    (source / "toy.py").write_text('"""Words."""\nCARD = 1\nX = 1\n')
    assert with_proof("bench:toy") == []
    (source / "toy.py").write_text("X = 2\n")
    assert "made by other code" in with_proof("bench:toy")[0]
