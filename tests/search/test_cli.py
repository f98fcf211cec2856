"""The verbs end to end: what is on stdout, what is on stderr, and the exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from binderclip.cli import index as index_verb
from binderclip.cli.main import run
from binderclip.search.index import LocalIndex
from binderclip.search.writer import Writer

from .helpers import FakeEncoder, paint

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _fake_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, engine: str | None = None) -> FakeEncoder:
        encoder = FakeEncoder(f"fake-{name}")
        encoder.name = name
        return encoder

    monkeypatch.setattr("binderclip.search.index.load_encoder", load)
    monkeypatch.setattr("binderclip.search.base.load_encoder", load)


@pytest.fixture
def db(tmp_path: Path, photos: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "db"
    monkeypatch.setenv("BINDERCLIP_DB", str(place))
    assert run(["index", str(photos)]) == 0
    capsys.readouterr()
    return place


def test_index_says_what_it_did(
    tmp_path: Path, photos: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As where the extra `heic` is not installed.
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr("binderclip.data.media._heic_ready", False)
    (photos / "bad.jpg").write_bytes(b"bad")
    (photos / "x.heic").write_bytes(b"bad")
    assert run(["index", str(photos), "--db", str(tmp_path / "db")]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert f"index: {tmp_path / 'db'}" in said.err
    assert f"warning: {photos / 'bad.jpg'}: is no picture that can be read" in said.err
    assert "30 encoded" in said.err
    assert "1 could not be read" in said.err
    assert "1 file left out, readable with the extra 'heic'" in said.err
    assert run(["index", str(photos), "--db", str(tmp_path / "db"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["unchanged"], facts["encoded"], len(facts["known_bad"])) == (30, 0, 1)


def test_the_per_user_place_is_used_and_printed(photos: Path, capsys: Captured) -> None:
    assert run(["index", str(photos)]) == 0
    assert os.path.join("binderclip", "index") in capsys.readouterr().err
    assert run(["search", "red"]) == 0


def test_search_json_is_one_list(db: Path, photos: Path, capsys: Captured) -> None:
    assert run(["search", "red", "--json", "--top", "3", "--no-fold"]) == 0
    hits = json.loads(capsys.readouterr().out)
    assert len(hits) == 3
    assert all(set(hit) >= {"path", "score", "probability"} and "red" in Path(hit["path"]).name for hit in hits)
    assert hits[0]["probability"] is None
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)


def test_search_table_and_paths(db: Path, capsys: Captured) -> None:
    assert run(["search", "red", "--no-fold", "-n", "2"]) == 0
    table = capsys.readouterr()
    assert len([line for line in table.out.splitlines() if ".png" in line]) == 2
    assert run(["search", "red", "+", "blue", "-", "white", "-f", "--no-fold", "-n", "4"]) == 0
    paths = capsys.readouterr().out.splitlines()
    assert len(paths) == 4
    assert all(Path(path).is_file() for path in paths)
    assert run(["search", "red", "-0", "-n", "2"]) == 0
    assert capsys.readouterr().out.count("\0") == 2


def test_nothing_matches_is_exit_code_1(db: Path, capsys: Captured) -> None:
    assert run(["search", "red", "--where", "path~nowhere"]) == 1
    assert "nothing matches" in capsys.readouterr().err
    assert run(["search", "red", "--min-score", "2", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["search"],
        ["search", "red", "--where", "colour=red"],
        ["search", "./none.jpg"],
        ["search", "red", "--min-score", "much"],
        ["search", "red", "--min-score", "auto"],
        ["search", "red", "--db", "no-such-folder"],
        ["search", "red", "--model", "other"],
        ["index", "no-such-folder"],
        ["index", "--db", "somewhere"],
        ["index", "info", "--db", "no-such-folder"],
        ["index", "--to", "s3://bucket"],
        ["similar", "none.jpg"],
        ["similar"],
        ["embed", "."],
        ["embed", "-o", "x"],
        ["search", "red", "--no-such-option"],
    ],
)
def test_what_cannot_be_done_is_exit_code_2(
    db: Path, arguments: list[str], capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.strip()
    assert "Traceback" not in said.err


def test_a_contact_sheet(db: Path, tmp_path: Path, capsys: Captured) -> None:
    assert run(["search", "red", "--html", str(tmp_path / "s.html")]) == 0
    assert "<h1>red</h1>" in (tmp_path / "s.html").read_text("utf-8")
    assert str(tmp_path / "s.html") in capsys.readouterr().err


def test_similar_leaves_the_picture_itself_out(db: Path, photos: Path, tmp_path: Path, capsys: Captured) -> None:
    asked = photos / "day0" / "red0.png"
    assert run(["similar", str(asked), "-f", "--no-fold", "-n", "5"]) == 0
    near = capsys.readouterr().out.splitlines()
    assert str(asked) not in near
    assert len(near) == 5
    assert all("red" in Path(path).name for path in near)
    outside = paint(tmp_path / "new.png", (20, 20, 230), seed=5)
    assert run(["similar", str(outside), "--json", "--top", "1"]) == 0
    assert "blue" in json.loads(capsys.readouterr().out)[0]["path"]


def test_dedup(db: Path, photos: Path, capsys: Captured) -> None:
    assert run(["dedup", "--exact"]) == 1
    (photos / "copy.png").write_bytes((photos / "day0" / "red0.png").read_bytes())
    run(["index", str(photos)])
    capsys.readouterr()
    assert run(["dedup", "--exact", "--json"]) == 0
    (group,) = json.loads(capsys.readouterr().out)
    assert group["exact"] is True
    assert run(["dedup", "--exact", "-f"]) == 0
    assert capsys.readouterr().out.splitlines() == group["others"]
    assert run(["dedup", "--threshold", "0.9", "--where", "name~red or name~blue"]) == 0
    assert capsys.readouterr().out.count("keep ") == 2
    assert len(list(photos.rglob("*.png"))) == 31


def test_embed(db: Path, photos: Path, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "out"
    assert run(["embed", str(photos), "-o", str(out), "--jsonl", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["written"] == 30
    assert run(["embed", str(photos), "-o", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": str(out), "written": 0, "kept": 30, "parts": 0, "bad": []}
    assert run(["embed", "--from-index", "-o", str(tmp_path / "out2"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["written"] == 30


def test_the_care_of_an_index(db: Path, photos: Path, capsys: Captured) -> None:
    assert run(["index", "info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["files"], facts["db"], facts["roots"]) == (30, str(db), [str(photos)])
    assert run(["index", "info"]) == 0
    assert "30 files" in capsys.readouterr().out
    assert run(["index", "verify", "--deep"]) == 0
    (photos / "day0" / "red0.png").write_bytes(b"changed")
    assert run(["index", "verify", "--deep"]) == 1
    assert "has changed since" in capsys.readouterr().out
    assert run(["index", "rm", str(photos / "day1")]) == 0
    assert run(["index", "rm", str(photos / "day1")]) == 1
    capsys.readouterr()
    assert run(["index", "prune", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"files": 0, "vectors": 10}
    assert len(list(photos.rglob("*.png"))) == 30


def test_a_folder_named_as_a_verb(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    paint(tmp_path / "info" / "a.png", (255, 0, 0))
    monkeypatch.chdir(tmp_path)
    assert run(["index", "./info", "--db", "db"]) == 0
    assert "1 encoded" in capsys.readouterr().err


def test_a_second_writer_is_exit_code_2(db: Path, photos: Path, capsys: Captured) -> None:
    with Writer(db):
        assert run(["index", str(photos)]) == 2
        assert f"process {os.getpid()}" in capsys.readouterr().err
        assert run(["search", "red"]) == 0


def test_a_model_in_part(db: Path, photos: Path, capsys: Captured) -> None:
    assert run(["index", str(photos / "day0"), "--model", "new"]) == 0
    capsys.readouterr()
    assert run(["search", "red"]) == 0
    said = capsys.readouterr().err
    assert "20 files without a vector of new yet: binderclip index" in said


def test_dry_run(db: Path, photos: Path, capsys: Captured) -> None:
    paint(photos / "new.png", (1, 2, 3))
    assert run(["index", str(photos), "--dry-run"]) == 0
    assert "1 to encode" in capsys.readouterr().err
    with LocalIndex(db) as index:
        assert index.info()["files"] == 30


def test_watching_indexes_what_comes_and_an_interrupt_is_130(
    db: Path, photos: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    def pause(paths: list[Path], interval: float) -> None:
        looks.append(interval)
        if len(looks) == 3:
            raise KeyboardInterrupt
        paint(photos / f"new{len(looks)}.png", (1, 2, 3), seed=len(looks))

    monkeypatch.setattr(index_verb, "_pause", pause)
    assert run(["index", str(photos), "--watch", "--interval", "0.5"]) == 130
    assert looks == [0.5] * 3
    with LocalIndex(db) as index:
        assert index.info()["files"] == 32


def test_an_interrupt_keeps_what_was_committed(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopping(FakeEncoder):
        def encode_pixels(self, pixels):  # type: ignore[no-untyped-def]
            if self.encoded >= 16:
                raise KeyboardInterrupt
            return super().encode_pixels(pixels)

    monkeypatch.setattr("binderclip.search.index.load_encoder", lambda *asked: Stopping())
    assert run(["index", str(photos), "--db", str(tmp_path / "db"), "--batch", "8"]) == 130
    with LocalIndex(tmp_path / "db", FakeEncoder()) as index:
        assert index.info()["files"] == 16
        assert index.add([photos], batch=8).encoded == 14


def test_lance_without_the_extra_names_the_install(db: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lancedb", None)
    assert run(["index", "--to", "lance:somewhere"]) == 2
    assert "pip install 'binderclip[lance]'" in capsys.readouterr().err


def test_help_costs_little_and_names_everything() -> None:
    code = (
        "import sys; from binderclip.cli.main import run; run(['index', '--help']); run(['search', '--help']);"
        "heavy = {'torch', 'usearch', 'onnxruntime', 'PIL', 'lancedb', 'pyarrow', 'sklearn'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}
    )
    assert done.returncode == 0, done.stderr
    for word in ("--ignore", "--watch", "--dry-run", "verify", "prune", "--where", "--min-score", "Examples"):
        assert word in done.stdout
