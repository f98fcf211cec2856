"""The main job on real photos with the embedded model: index, search, classify, as a user runs it, without network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Runs before anything else in the process: a socket of any kind is an error, not a request.
OFFLINE = """
import socket
def refuse(*args, **kwargs):
    raise OSError("this test forbids sockets")
class Refused(socket.socket):
    __init__ = refuse
socket.socket = Refused
socket.create_connection = refuse
socket.getaddrinfo = refuse
"""

SEARCHES = {"a cat": "chelsea.png", "a rocket": "rocket.jpg", "a cup of coffee": "coffee.png"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight photos that scikit-image ships, one more that is damaged, and a text."""
    import skimage

    folder = tmp_path_factory.mktemp("photos")
    source = Path(skimage.__file__).parent / "data"
    for (
        name
    ) in "astronaut.png chelsea.png coffee.png rocket.jpg grass.png page.png motorcycle_left.png coins.png".split():
        shutil.copyfile(source / name, folder / name)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def run_offline(*arguments: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    program = (
        OFFLINE
        + f"import sys\nsys.argv = ['binderclip', *{list(arguments)!r}]\nfrom binderclip.cli.main import main\nmain()\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("BINDERCLIP_")}
    return subprocess.run(
        [python, "-c", program], capture_output=True, text=True, timeout=300, check=False, env=environment
    )


def check_main_job(photos: Path, db: Path, python: str = sys.executable) -> None:
    done = run_offline("index", str(photos), "--db", str(db), "--json", python=python)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["indexed"] == 8
    assert [Path(bad["path"]).name for bad in report["bad"]] == ["broken.jpg"]
    assert "broken.jpg" in done.stderr
    for query, wanted in SEARCHES.items():
        found = run_offline("search", query, "--db", str(db), "--json", "--top", "2", python=python)
        assert found.returncode == 0, found.stderr
        hits = json.loads(found.stdout)
        assert Path(hits[0]["path"]).name == wanted
        assert set(hits[0]) >= {"path", "score", "probability"}
    image = run_offline("search", str(photos / "chelsea.png"), "--db", str(db), "-f", "--top", "1", python=python)
    assert image.stdout.strip() == str(photos / "chelsea.png")


def test_index_and_search_without_network(photos: Path, tmp_path: Path) -> None:
    check_main_job(photos, tmp_path / "db")
    again = run_offline("index", str(photos), "--db", str(tmp_path / "db"), "--json")
    assert json.loads(again.stdout)["unchanged"] == 8


def test_nothing_matches_is_exit_code_1(photos: Path, tmp_path: Path) -> None:
    run_offline("index", str(photos), "--db", str(tmp_path / "db"))
    done = run_offline("search", "a cat", "--db", str(tmp_path / "db"), "--min-score", "0.99")
    assert (done.returncode, done.stdout) == (1, "")
    assert "nothing matches" in done.stderr


def test_classify(photos: Path, tmp_path: Path) -> None:
    table = tmp_path / "out.csv"
    done = run_offline(
        "classify", str(photos), "--labels", "cat,astronaut,coffee,rocket|spaceship", "--json", "--csv", str(table)
    )
    assert done.returncode == 0, done.stderr
    best = {Path(row["path"]).name: row["classes"][0]["label"] for row in json.loads(done.stdout)}
    assert (best["chelsea.png"], best["coffee.png"], best["rocket.jpg"]) == ("cat", "coffee", "rocket|spaceship")
    assert len(table.read_text().splitlines()) == 1 + 8 * 4
    assert "broken.jpg" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["classify", "{photos}", "--labels", "cat,cat"], "given twice"),
        (["classify", "{photos}", "--labels", "cat,,dog"], "empty"),
        (["classify", "{photos}", "--labels", "none.txt"], "no such file of labels"),
        (["classify", "{photos}/none", "--labels", "cat"], "no such file or folder"),
        (["classify", "{photos}/notes.txt", "--labels", "cat"], "no picture"),
        (["classify", "{photos}", "--labels", "cat", "--template", "photos of"], "no templates"),
        (["search"], "nothing to search for"),
        (["search", "cat", "--db", "{photos}/none"], "index"),
        (["index", "{photos}/none", "--db", "{tmp}/db"], "no such file or folder"),
        (["methods", "show", "nothing"], "no method is called"),
        (["serch", "cat"], "No such command"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], says: str, photos: Path, tmp_path: Path) -> None:
    done = run_offline(*[a.format(photos=photos, tmp=tmp_path) for a in arguments])
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.wheel
def test_the_wheel_in_an_empty_environment(photos: Path, tmp_path: Path) -> None:
    """Built, installed, used: no torch, under 350 MB."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(tmp_path / "dist"), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    python = str(home / "bin" / "python")
    before = size_of(home)
    install = [python, "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=600)
    check_main_job(photos, tmp_path / "db", python)
    assert subprocess.run([python, "-c", "import torch"], capture_output=True, check=False).returncode == 1
    listed = subprocess.run([python, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    assert listed.returncode == 0, listed.stdout
    grown = (size_of(home) - before) / 1e6
    assert grown < 350, f"the core install takes {grown:.0f} MB"


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
