"""Fixtures for all tests: where the shared data is, and quiet threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def find_shared() -> Path | None:
    """The folder of shared data: BINDERCLIP_SHARED, or ../shared beside the repository."""
    for place in (os.environ.get("BINDERCLIP_SHARED"), str(REPOSITORY.parent / "shared")):
        if place and (Path(place) / "data" / "README.md").is_file():
            return Path(place)
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect `data` tests when the data is absent, and `slow` ones unless they were asked for."""
    drop = set()
    if find_shared() is None:
        drop |= {item for item in items if item.get_closest_marker("data")}
    if "slow" not in (config.option.markexpr or ""):
        drop |= {item for item in items if item.get_closest_marker("slow")}
    if drop:
        config.hook.pytest_deselected(items=[item for item in items if item in drop])
        items[:] = [item for item in items if item not in drop]


# -- the CPU that each system's quick tests take -------------------------------------------------------------------------

SECONDS_WANTED, SECONDS_MOST = 8.0, 16.0
_cpu: dict[str, float] = {}


def system_of(item: pytest.Item) -> str:
    """The system or part a test belongs to: `ROOM/SLUG` by its mark, else `tests/ROOM/test_NAME.py` -> `ROOM/NAME`."""
    path = item.path.relative_to(REPOSITORY / "tests")
    marked = item.get_closest_marker("system")
    if marked is not None:  # the room's conformance suite runs every system
        return f"{path.parts[0]}/{marked.args[0]}"
    return "/".join((*path.parts[:-1], path.stem.removeprefix("test_")))


def cpu_seconds() -> float:
    """Of this process and of the children it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Add up the CPU that a test takes with its fixtures."""
    start = cpu_seconds()
    yield
    if not item.get_closest_marker("slow"):
        name = system_of(item)
        _cpu[name] = _cpu.get(name, 0.0) + cpu_seconds() - start


def over_budget() -> dict[str, float]:
    """Systems (files named after a card's slug) whose quick tests took more than may be."""
    from binderclip.cards import cards

    slugs = set(cards())
    return {name: spent for name, spent in _cpu.items() if name.split("/")[-1] in slugs and spent > SECONDS_MOST}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print where the CPU went; a system over 16 s fails the run."""
    terminalreporter.section("CPU seconds of quick tests, by system or part")
    for name, spent in sorted(_cpu.items(), key=lambda pair: -pair[1]):
        if spent >= 1.0:
            mark = "  over 8" if spent > SECONDS_WANTED else ""
            terminalreporter.line(f"{spent:7.1f}  {name}{mark}")
    for name, spent in over_budget().items():
        terminalreporter.line(f"FAILED: the tests of {name} take {spent:.1f} s of CPU, over {SECONDS_MOST:.0f}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """The exit code says so too."""
    if over_budget() and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared folder."""
    place = find_shared()
    assert place is not None, "a test without the mark `data` asked for shared data"
    return place


@pytest.fixture(scope="session")
def shared_data(shared: Path) -> Path:
    """The folder of data sets."""
    return shared / "data"


@pytest.fixture(autouse=True)
def _private_places(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test touches the user's own index, cache or configuration."""
    for name in list(os.environ):
        if name.startswith("BINDERCLIP_") and name != "BINDERCLIP_SHARED":
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(home / name.lower()))
