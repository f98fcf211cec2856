"""What the documentation shows runs: every Python block, every command's options; and generated pages are fresh."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from binderclip.cli.main import app, run

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for i, (kind, body) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8"))):
            if kind == language:
                found.append((f"{page.relative_to(ROOT)}#{i}", body))
    return found


def commands() -> list[str]:
    lines = [line[2:] for _, body in blocks("console") for line in body.splitlines() if line.startswith("$ binderclip")]
    return sorted({line.split("#")[0].split("|" if " | " in line else "\0")[0].strip() for line in lines})


def test_there_are_snippets() -> None:
    assert len(blocks("python")) >= 3
    assert len(commands()) >= 12


@pytest.mark.parametrize(("where", "body"), blocks("python"), ids=[where for where, _ in blocks("python")])
def test_python_blocks_run(where: str, body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    exec(compile(body, where, "exec"), {"__name__": "__snippet__"})


@pytest.mark.parametrize("command", commands())
def test_commands_are_spelt_right(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each shown command is parsed with its options: `--help` behind it leaves before any work."""
    words = shlex.split(command)[1:]
    groups = {group.name: {c.name for c in group.typer_instance.registered_commands} for group in app.registered_groups}
    verbs = words[: 2 if len(words) > 1 and words[1] in groups.get(words[0], ()) else 1]
    options = {word.split("=")[0] for word in words if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", word)}
    assert run([*verbs, "--help"]) == 0
    shown = capsys.readouterr().out
    for option in options:
        assert option in shown, f"{command}: {' '.join(verbs)} --help does not know {option}"


def load_builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_docs", ROOT / "tools" / "build_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_fresh() -> None:
    assert load_builder().stale() == [], "run `python tools/build_docs.py --pages`"


def test_relative_links_lead_somewhere() -> None:
    for page in PAGES:
        prose = re.sub(r"`[^`\n]*`", "", page.read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", prose):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


DOCTESTED = [
    path for path in sorted((ROOT / "src" / "binderclip").rglob("*.py")) if ">>>" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("path", DOCTESTED, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_docstring_examples(path: Path) -> None:
    module = importlib.import_module(".".join(path.relative_to(ROOT / "src").with_suffix("").parts))
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0
