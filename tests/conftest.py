"""Fixtures for all tests: where the shared data is, and quiet threads."""

from __future__ import annotations

import os
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
