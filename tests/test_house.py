"""The rules of the house hold: sizes, layers, light imports, documented names; and what is public is what is meant."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


def load_house() -> ModuleType:
    spec = importlib.util.spec_from_file_location("house", ROOT / "tools" / "house.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


house = load_house()


def test_there_is_something_to_check() -> None:
    assert len(house.sources()) > 20


@pytest.mark.parametrize("rule", sorted(house.RULES))
def test_rule(rule: str) -> None:
    assert house.RULES[rule]() == []


def test_a_layer_fault_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "binderclip"
    (package / "search").mkdir(parents=True)
    (package / "search" / "x.py").write_text('"""X."""\nfrom binderclip.train import loop\nimport torch\n')
    monkeypatch.setattr(house, "ROOT", tmp_path)
    monkeypatch.setattr(house, "PACKAGE", package)
    assert ["search imports train" in fault for fault in house.layer_faults()] == [True]
    assert ["imports torch" in fault for fault in house.heavy_faults()] == [True]


def test_public_names() -> None:
    import binderclip

    wanted = ["CLIP", "Card", "Embeddings", "Encoder", "Index", "__version__", "load"]
    assert binderclip.__all__ == wanted
    for name in wanted:
        assert getattr(binderclip, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = binderclip.Nothing


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["methods", "list"], ["search", "--help"], ["search", "a dog", "--db", "{db}"]],
    ids=["help", "methods", "search-help", "search"],
)
def test_the_command_stays_light(arguments: list[str], tmp_path: Path) -> None:
    heavy = sorted(house.HEAVY)
    program = (
        "import sys\n"
        "from binderclip.cli.main import run\n"
        f"code = run({[a.format(db=tmp_path / 'none') for a in arguments]!r})\n"
        f"print('HEAVY', [m for m in {heavy!r} if m in sys.modules], code)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert "HEAVY []" in done.stdout
