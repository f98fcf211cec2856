"""Cards are found by reading, plugins by their entry points, and coverage is counted against the list of systems."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from binderclip import cards as registry
from binderclip.errors import InputError, UnknownNameError

METHOD = '''"""A method."""
import a_module_that_does_not_exist
from binderclip.cards import Card
CARD = Card(
    slug="{slug}", name="Toy", title="Toys Are All You Need", arxiv="2401.00001", year=2024, room="adapt",
    provides="Toy", kind="Adapter", verb="fit", needs=("image.tokens",), must_show={{"it works": "{proof}"}},
)
'''


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    registry.cards.cache_clear()
    yield
    registry.cards.cache_clear()


def write(path: Path, slug: str = "toy", proof: str = "tests/x.py::test") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(METHOD.format(slug=slug, proof=proof))
    return path


def test_a_card_is_read_without_running_its_file(tmp_path: Path) -> None:
    card = registry.read_card(write(tmp_path / "toy.py"), "binderclip.adapt.toy")
    assert card is not None
    assert (card.slug, card.needs, card.status, card.module) == (
        "toy",
        ("image.tokens",),
        "implemented",
        "binderclip.adapt.toy",
    )
    (tmp_path / "plain.py").write_text("X = 1\n")
    assert registry.read_card(tmp_path / "plain.py", "x") is None


@pytest.mark.parametrize("text", ["CARD = Card(slug=NAME)\n", "CARD = Card(slug='x', flavour='sweet')\n"])
def test_a_card_that_is_no_literal_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(InputError, match=r"bad\.py: its CARD must be a literal"):
        registry.read_card(tmp_path / "bad.py", "x")


def test_status_and_missed(tmp_path: Path) -> None:
    missed = registry.read_card(write(tmp_path / "a.py", proof="missed:toy: 0.3, wanted 0.4"), "a")
    assert missed is not None
    assert (missed.status, missed.missed) == ("implemented", ["it works"])
    open_line = registry.read_card(write(tmp_path / "b.py", proof=""), "b")
    assert open_line is not None
    assert open_line.status == "partial"


def test_every_slug_in_the_package_is_a_system_or_says_it_is_none() -> None:
    known = {row["slug"] for row in registry.systems()}
    for card in registry.cards().values():
        assert card.slug in known or not card.arxiv or card.baseline


def test_coverage_counts_the_162_systems() -> None:
    counts = registry.coverage()
    assert counts["total"] == 162
    assert len({row["slug"] for row in registry.systems()}) == 162
    assert set(counts) == {"implemented", "partial", "total", "missed"}


def test_an_unknown_name_offers_close_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    card = registry.read_card(write(tmp_path / "toy.py", slug="maple"), "m")
    assert card is not None
    monkeypatch.setattr(registry, "_own_cards", lambda: [card])
    with pytest.raises(UnknownNameError, match=r"did you mean maple\?"):
        registry.find("mapel")
    assert registry.find("MaPLe").slug == "maple"


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package, as pip leaves it: a module and its metadata on the path."""
    site = tmp_path / "site"
    write(site / "toy_plugin" / "method.py", slug="toy_plugin")
    (site / "toy_plugin" / "__init__.py").write_text("raise RuntimeError('a plugin must not run to be listed')\n")
    info = site / "toy_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[binderclip.methods]\ntoy = toy_plugin.method\n")
    (info / "RECORD").write_text("toy_plugin/__init__.py,,\ntoy_plugin/method.py,,\n")
    monkeypatch.syspath_prepend(str(site))
    return site


def test_a_plugin_is_listed_without_being_imported(plugin: Path) -> None:
    card = registry.find("toy-plugin")
    assert (card.source, card.module) == ("toy-plugin", "toy_plugin.method")
    assert "toy_plugin" not in sys.modules


def test_a_plugin_method_is_imported_on_first_use(plugin: Path) -> None:
    (plugin / "toy_plugin" / "__init__.py").write_text("")
    method = plugin / "toy_plugin" / "method.py"
    method.write_text(method.read_text().replace("import a_module_that_does_not_exist", "class Toy: ..."))
    assert registry.load_method("toy_plugin").__name__ == "Toy"
    for name in [name for name in sys.modules if name.startswith("toy_plugin")]:
        del sys.modules[name]


def test_a_clash_of_names_is_an_error(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = registry.read_card(plugin / "toy_plugin" / "method.py", "binderclip.adapt.toy_plugin")
    assert card is not None
    monkeypatch.setattr(registry, "_own_cards", lambda: [card])
    with pytest.raises(InputError, match="two methods are called 'toy_plugin'"):
        registry.cards()


def test_a_plugin_without_a_card_is_an_error(plugin: Path) -> None:
    (plugin / "toy_plugin" / "method.py").write_text("X = 1\n")
    with pytest.raises(InputError, match="holds no CARD"):
        registry.cards()


def test_the_list_in_the_wheel_equals_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scanned = registry.scan_package()
    built = tmp_path / "_cards.json"
    built.write_text(registry.dump_cards())
    monkeypatch.setattr(registry, "__file__", str(tmp_path / "cards.py"))
    assert registry._own_cards() == scanned
