"""`binderclip curate`, as a user runs it: through its Typer app."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from binderclip.cli.curate import curate_app
from binderclip.curate.run import read_verdicts
from binderclip.data.pairs import Pair, Pairs
from binderclip.errors import BinderclipError, InputError, UnknownNameError

from ..data.sources_kit import picture, write_folder, write_shards
from .kit import pool, write_pool

Captured = pytest.CaptureFixture[str]
METACLIP = ["--method", "metaclip"]


def run(*arguments: object) -> int:
    """The exit code; errors of ours pass through, as they do to `binderclip.cli.main.run`, which makes them code 2."""
    code = curate_app(args=[str(one) for one in arguments], standalone_mode=False)
    return code if isinstance(code, int) else 0


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "concepts.txt").write_text("".join(f"w{k}\n" for k in range(40)))
    return write_pool(tmp_path / "pool.csv", pool())


def options(place: Path, *more: object) -> list[object]:
    return [*METACLIP, "--set", f"metadata={place / 'concepts.txt'}", "--set", "t=12", *more]


def test_filter_tells_counts_by_reason(table: Path, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "kept"
    assert run("filter", table, *options(tmp_path), "--out", out, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["rows"] == 140
    assert said["reasons"]["no-caption"] == {"rows": 1, "kept": 0}
    assert said["reasons"]["tail"]["rows"] == said["reasons"]["tail"]["kept"]
    assert 0 < said["reasons"]["head"]["kept"] < said["reasons"]["head"]["rows"]
    assert sum(one["rows"] for one in said["reasons"].values()) == 140
    assert said["about"]["t"] == 12
    assert json.loads((out / "summary.json").read_text()) | {"out": str(out)} == said
    assert len((out / "kept.txt").read_text().split()) == said["kept"]
    # again: nothing is done anew, the same is told; as a table, and as ids
    made = {path: path.stat().st_mtime_ns for path in out.rglob("0*")}
    assert run("filter", table, *options(tmp_path), "--out", out) == 0
    text = capsys.readouterr()
    assert "no-caption" in text.out
    assert f"written: {out}" in text.err.replace("\n", "")
    assert run("filter", table, *options(tmp_path), "--out", out, "-q") == 0
    assert capsys.readouterr().out == (out / "kept.txt").read_text()
    assert {path: path.stat().st_mtime_ns for path in out.rglob("0*")} == made


def test_kept_rows_are_pairs_again(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "concepts.txt").write_text("number\n")
    write_folder(tmp_path / "photos", 6)
    (tmp_path / "photos" / "0002.txt").write_text("nothing of the list")
    settings = [*METACLIP, "--set", f"metadata={tmp_path / 'concepts.txt'}"]
    (tmp_path / "photos" / "0003.txt").write_text("the number three\na word")
    assert run("filter", tmp_path / "photos", *settings, "--write", "list", "--out", tmp_path / "a") == 0
    listed = list(Pairs.open(tmp_path / "a" / "kept.jsonl"))
    assert [Path(str(row.image)).name for row in listed] == ["0003.png"]  # the others say "number" in quotes
    assert listed[0].captions == ("the number three",)
    assert run("filter", write_shards(tmp_path / "shards", 3, 4), *METACLIP, "--set", 'metadata=["picture"]',
               "--write", "tar", "--out", tmp_path / "b", "--json") == 0  # fmt: skip
    rows = list(Pairs.open(str(tmp_path / "b" / "kept")))
    assert len(rows) == 12
    assert rows[5].image == picture(5)
    assert (rows[5].label, rows[5].metadata["id"]) == (1, "000005")
    with pytest.raises(InputError, match="as tar"):
        run("filter", tmp_path / "shards", *METACLIP, "--set", 'metadata=["picture"]', "--write", "list",
            "--out", tmp_path / "c")  # fmt: skip


def test_several_sources_keep_their_ids_apart(table: Path, tmp_path: Path, capsys: Captured) -> None:
    other = Path(shutil.copy(table, tmp_path / "other.csv"))
    out = tmp_path / "kept"
    assert run("filter", table, other, *options(tmp_path), "--out", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 280
    ids = [key for part in read_verdicts(out) for key in part["id"]]
    assert len(set(ids)) == 280
    assert {key.split("/")[0] for key in ids} == {"pool", "other"}


def test_nothing_kept_is_exit_code_1(table: Path, tmp_path: Path, capsys: Captured) -> None:
    draws = [*METACLIP, "--set", 'metadata=["a"]', "--set", "t=1", "--json"]
    codes = {run("filter", table, *draws, "--set", f"seed={seed}", "--out", tmp_path / f"s{seed}") for seed in range(8)}
    assert codes == {0, 1}


def test_workers_give_the_same(table: Path, tmp_path: Path, capsys: Captured) -> None:
    for workers in (0, 2):
        assert run("filter", table, *options(tmp_path), "-j", workers, "--out", tmp_path / str(workers), "-q") == 0
    first, second = capsys.readouterr().out, (tmp_path / "2" / "kept.txt").read_text()
    assert first == second * 2


def empty_folder(place: Path) -> list[object]:
    (place / "empty").mkdir()
    return [place / "empty", *options(place)]


def text_as_video(place: Path) -> list[object]:
    (place / "clips").mkdir()
    (place / "clips" / "talk.mp4").write_text("not a video")
    return [place / "clips", *options(place)]


def broken_shard(place: Path) -> list[object]:
    (place / "0.tar").write_bytes(b"no tar")
    return [place / "0.tar", *options(place)]


BAD: dict[str, tuple[Callable[[Path], list[object]], str]] = {
    "no source": (lambda place: [place / "none", *options(place)], "nothing is at"),
    "an empty folder": (empty_folder, "no pictures, videos or sounds"),
    "a text file renamed to .mp4": (text_as_video, "no row has a caption"),
    "a damaged shard": (broken_shard, "no row has a caption"),
    "no such method": (lambda place: [place / "pool.csv", "--method", "metaclipp"], "did you mean metaclip"),
    "a method of another room": (lambda place: [place / "pool.csv", "--method", "contrastive"], "is no method that"),
    "no such setting": (lambda place: [place / "pool.csv", *options(place, "--set", "tt=3")], "has no setting 'tt'"),
    "a setting without a value": (lambda place: [place / "pool.csv", *options(place, "--set", "t")], "NAME=VALUE"),
    "a setting of another kind": (lambda place: [place / "pool.csv", *options(place, "--set", "t=x")], "wrong kind"),
    "no list": (lambda place: [place / "pool.csv", *METACLIP], "needs metadata"),
    "a list that is not there": (lambda place: [place / "pool.csv", *METACLIP, "--set", "metadata=no.txt"], "read"),
    "nothing matches": (lambda place: [place / "pool.csv", *METACLIP, "--set", 'metadata=["q"]'], "no caption holds"),
    "another form": (lambda place: [place / "pool.csv", *options(place, "--write", "zip")], "ids, list or tar"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_writes_nothing(name: str, table: Path, tmp_path: Path) -> None:
    make, said = BAD[name]
    arguments = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BinderclipError, match=said) as raised:
        run("filter", *arguments, "--out", tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value, InputError | UnknownNameError)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_of_something_else_is_left_alone(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="choose another --out"):
        run("filter", table, *options(tmp_path), "--out", out)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    good = tmp_path / "good"
    assert run("filter", table, *options(tmp_path), "--out", good, "-q") == 0
    with pytest.raises(InputError, match="another settings"):
        run("filter", table, *options(tmp_path, "--set", "seed=1"), "--out", good)
    write_pool(tmp_path / "pool.csv", pool(90))
    with pytest.raises(InputError, match="another source"):
        run("filter", table, *options(tmp_path), "--out", good)
    assert (good / "summary.json").is_file()


def test_metadata_is_made_from_words(table: Path, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "corpus.txt").write_text("a dog and a cat\n" * 5 + "a cat\n")
    out = tmp_path / "list.txt"
    done = run("metadata", table, tmp_path / "corpus.txt", "--out", out, "--min-count", 5, "--json")
    assert done == 0
    facts = json.loads(capsys.readouterr().out)
    entries = out.read_text().splitlines()
    assert facts["entries"] == len(entries)
    assert {"cat", "dog", "w0", "99"} <= set(entries)
    assert "." not in entries
    with pytest.raises(InputError, match="name pairs or texts"):
        run("metadata", "--out", out)
    with pytest.raises(InputError, match="is no folder"):
        run("metadata", table, "--out", tmp_path / "none" / "x.txt")


def test_help_has_an_example(capsys: Captured) -> None:
    run("filter", "--help")
    assert "binderclip curate filter pairs.csv --method metaclip" in " ".join(capsys.readouterr().out.split())


def test_added_rows_become_a_shard(tmp_path: Path) -> None:
    from PIL import Image

    from binderclip.curate.tables import write_tar

    made = Pair("a+b", image=Image.new("RGB", (3, 2), "red"), captions=("two\nlines", "one"), boxes=((0, 0, 1, 1),),
                provenance="composite of a,b")  # fmt: skip
    lost = Pair("c", image=str(tmp_path / "none.jpg"))
    for name in ("x.tar", "y.tar"):
        assert write_tar(tmp_path / name, [made, lost, made]) == 2
    assert (tmp_path / "x.tar").read_bytes() == (tmp_path / "y.tar").read_bytes()
    row = next(iter(Pairs.open(tmp_path / "x.tar")))
    assert row.captions == ("two lines", "one")
    assert (row.provenance, row.boxes) == ("composite of a,b", ((0.0, 0.0, 1.0, 1.0),))
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert [m.name for m in tar.getmembers()][:3] == ["00000000.png", "00000000.txt", "00000000.json"]
