"""Every kind of source gives the same rows, and says in one line what is wrong with it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from binderclip.data.mapped import captions_from_labels
from binderclip.data.media import open_image
from binderclip.data.mixed import MixedPairs
from binderclip.data.pairs import Bad, Pairs
from binderclip.data.report import classes_of, survey
from binderclip.data.sources.opening import expand
from binderclip.errors import InputError
from tests.data.sources_kit import caption, number_of, picture, write_folder, write_shards, write_table, write_tar

N = 10


def check(pairs: Pairs, count: int = N) -> None:
    """Each row's picture and caption are of one number, and all numbers come once, in order."""
    seen = []
    for row in pairs:
        assert row.image is not None
        number = number_of(open_image(row.image).image)
        assert row.caption == caption(number)
        seen.append(number)
    assert seen == list(range(count)), pairs.skipped


def write_parquet(path: Path, count: int, group: int) -> Path:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    images = [{"bytes": picture(i), "path": None} for i in range(count)]
    table = pa.table(
        {"image": images, "caption": [caption(i) for i in range(count)], "label": [i % 2 for i in range(count)]}
    )
    note = {"info": {"features": {"label": {"names": ["even", "odd"], "_type": "ClassLabel"}}}}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(note)}), path, row_group_size=group)
    return path


def write_hf(place: Path, count: int) -> Path:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.ipc as ipc

    for split in ("train", "test"):
        folder = place / split
        folder.mkdir(parents=True)
        names = []
        for part in range(2):
            rows = range(part * count // 2, (part + 1) * count // 2)
            table = pa.table(
                {
                    "image": [{"bytes": picture(i), "path": None} for i in rows],
                    "text": [caption(i) for i in rows],
                    "label": [i % 2 for i in rows],
                }
            )
            names.append(f"data-{part:05d}-of-00002.arrow")
            with ipc.new_stream(str(folder / names[-1]), table.schema) as sink:
                sink.write_table(table, max_chunksize=2)
        (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": n} for n in names]}))
        features = {"label": {"names": ["even", "odd"], "_type": "ClassLabel"}}
        (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    (place / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    return place


@pytest.mark.parametrize("kind", "folder csv tsv jsonl tar tar.gz tarfolder parquet hf imagefolder".split())
def test_every_kind_gives_the_same_rows(kind: str, tmp_path: Path) -> None:
    if kind == "folder":
        pairs = Pairs.open(write_folder(tmp_path / "photos", N))
    elif kind in ("csv", "tsv", "jsonl"):
        pairs = Pairs.open(write_table(tmp_path / f"rows.{kind}", N))
    elif kind == "tar":
        pairs = Pairs.open(write_shards(tmp_path, 5, 2))
    elif kind == "tar.gz":
        pairs = Pairs.open(write_tar(tmp_path / "all.tar.gz", range(N), mode="w:gz"))
    elif kind == "tarfolder":
        write_shards(tmp_path / "set" / "train", 2, 5)
        pairs = Pairs.open(tmp_path / "set", split="train")
    elif kind == "parquet":
        pairs = Pairs.open(write_parquet(tmp_path / "rows.parquet", N, 3))
        assert pairs.classes == ("even", "odd")
        assert len(pairs) == N
    elif kind == "hf":
        pairs = Pairs.open(write_hf(tmp_path / "saved", N), split="test")
        assert pairs.classes == ("even", "odd")
        assert len(pairs) == N
    else:
        write_table(tmp_path / "metadata.csv", N)
        pairs = Pairs.open(tmp_path)
    check(pairs)
    check(pairs)  # a source can be read again


def test_starts_and_steps_of_shards(tmp_path: Path) -> None:
    for pairs in (
        Pairs.open(write_tar(tmp_path / "a.tar", range(130))),
        Pairs.open(write_parquet(tmp_path / "a.parquet", 130, 130)),
    ):
        everything = [row.caption for row in pairs.read(0)]  # type: ignore[attr-defined]
        for start, step in ((0, 1), (7, 1), (65, 1), (1, 3), (70, 5), (3, 64), (129, 2), (130, 1), (500, 7)):
            assert [row.caption for row in pairs.read(0, start, step)] == everything[start::step]  # type: ignore[attr-defined]


def test_several_sources_in_one_spec(tmp_path: Path) -> None:
    first, second = write_folder(tmp_path / "a", 3), write_shards(tmp_path / "b", 2, 2)
    mixed = Pairs.open(f"{first}::{second}", weights=[3, 1])
    assert isinstance(mixed, MixedPairs)
    assert mixed.shares() == (0.75, 0.25)
    assert sorted({row.source for row in mixed}) == ["a", "{00000..00001}.tar"]
    assert [len(list(source)) for source in mixed.sources] == [3, 4]
    with pytest.raises(InputError, match="1 weights do not fit 2"):
        Pairs.open([str(first), second], weights=[1])


def test_expand_patterns(tmp_path: Path) -> None:
    assert expand("x/{008..011}.tar") == ["x/008.tar", "x/009.tar", "x/010.tar", "x/011.tar"]
    assert expand("{a,b}-{0..1}.tar") == ["a-0.tar", "a-1.tar", "b-0.tar", "b-1.tar"]
    with pytest.raises(InputError, match="over a million"):
        expand("{0..9999999}.tar")


def test_folder_of_folders_has_labels(tmp_path: Path) -> None:
    pairs = Pairs.open(write_folder(tmp_path, 6, classes=3))
    assert pairs.classes == ("class0", "class1", "class2")
    assert {row.label for row in pairs} == set(pairs.classes)
    texts = [row.caption for row in captions_from_labels(pairs, "photo")]
    assert texts[0] == "a photo of a class0."
    assert all(row.label is None for row in Pairs.open(tmp_path, kind="folder"))


def test_splits_are_no_classes(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", 4, classes=2)
    write_folder(tmp_path / "val", 4, classes=2)
    assert Pairs.open(tmp_path).classes == ("class0", "class1")
    assert len(Pairs.open(tmp_path, split="val")) == 4


def test_files_of_one_name_are_one_row(tmp_path: Path) -> None:
    (tmp_path / "fox.png").write_bytes(picture(1))
    (tmp_path / "fox.ogg").write_bytes(b"sound")
    (tmp_path / "fox.txt").write_text("a fox\nein Fuchs\n\n")
    (tmp_path / "owl.png").write_bytes(picture(2))
    (tmp_path / "owl.json").write_text(
        json.dumps({"caption": "an owl", "label": "bird", "box": [0, 0, 4, 4], "by": "me"})
    )
    (tmp_path / "lone.mp4").write_bytes(b"video")
    (tmp_path / "notes.txt").write_text("no row")
    fox, lone, owl = list(Pairs.open(tmp_path))
    assert fox.captions == ("a fox", "ein Fuchs")
    assert str(fox.audio).endswith("fox.ogg")
    assert (owl.caption, owl.label, owl.boxes, dict(owl.metadata)) == ("an owl", "bird", ((0, 0, 4, 4),), {"by": "me"})
    assert lone.image is None
    assert str(lone.video).endswith("lone.mp4")


def test_a_loop_of_links_and_a_strange_name(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", 2)
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    strange = os.fsencode(tmp_path / "a") + b"/\xff\xfe.png"
    Path(os.fsdecode(strange)).write_bytes(picture(3))
    rows = list(Pairs.open(tmp_path))
    assert len(rows) == 3
    assert all(row.image is not None and open_image(row.image) for row in rows)


def test_clip_benchmark_files_beside_shards(tmp_path: Path) -> None:
    write_shards(tmp_path / "test", 1, 4)
    (tmp_path / "classnames.txt").write_text("even number\nodd number\n")
    (tmp_path / "zeroshot_classification_templates.txt").write_text("a photo of {c}.\n")
    pairs = Pairs.open(tmp_path, split="test")
    assert pairs.templates == ("a photo of {}.",)
    assert [pairs.label_name(row.label) for row in pairs if row.label is not None] == ["even number", "odd number"] * 2
    assert pairs.label_number("odd number") == 1


def test_bad_rows_are_counted_with_reasons(tmp_path: Path) -> None:
    write_folder(tmp_path / "images", 3)
    lines = [
        "file;caption;weight;box",
        "images/0000.png;fine;1;",
        "images/0001.png;too few",
        ";no picture;1;",
        "https://x.org/a.png;far away;1;",
        "images/0001.png;heavy;-3;",
        "images/0001.png;boxed;1;[1, 2]",
        'images/0002.png;"two\nlines";2.5;[1, 2, 3, 4]',
    ]
    data = "\n".join(lines).encode() + b"\nimages/0002.png;\xff\xfe;1;\n"
    (tmp_path / "rows.csv").write_bytes(b"\xef\xbb\xbf" + data)
    pairs = Pairs.open(tmp_path / "rows.csv")
    good = list(pairs)
    assert [row.caption for row in good] == ["fine", "two\nlines"]
    assert good[1].weight == 2.5
    assert good[1].boxes == ((1, 2, 3, 4),)
    assert pairs.skipped.total() == 6
    assert set(pairs.skipped) >= {
        "no picture, video or sound",
        "its box is not four numbers",
        "its caption is not UTF-8",
    }


def test_damaged_jsonl_rows(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text(
        '{"image": "a.png", "texts": ["x", "y"]}\n{"image": \n\n[1]\n{"image": "b.png"}\n'
    )
    pairs = Pairs.open(tmp_path / "r.jsonl")
    assert [row.captions for row in pairs] == [("x", "y"), ()]
    assert dict(pairs.skipped) == {"its JSON is damaged": 1, "its JSON is no object": 1}


def test_truncated_and_garbled_shards(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar", range(8)).read_bytes()
    found = {}
    row = 6 * 512  # three members of a header and a block
    for name, data in {
        "cut": whole[: 3 * row + 3 * 512],  # behind a header
        "ragged": whole[: 3 * row + 2 * 512 + 100],  # within a header
        "between": whole[: 3 * row + 2 * 512],  # between two members of a row
        "noend": whole[: 8 * row],  # the end mark gone
        "hole": whole[: 2 * row] + b"\x07" * 512 + whole[2 * row + 512 :],
        "text": b"this is no tar file",
        "empty": b"",
    }.items():
        path = tmp_path / f"{name}.tar"
        path.write_bytes(data)
        rows = list(Pairs.open(path).scan())
        assert isinstance(rows[-1], Bad), name
        found[name] = len(rows) - 1
        assert [row.caption for row in rows[:-1]] == [caption(i) for i in range(found[name])]  # type: ignore[union-attr]
    assert found == {"cut": 3, "ragged": 3, "between": 3, "noend": 7, "hole": 1, "text": 0, "empty": 0}


def test_reasons_of_shards(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", range(4))
    (tmp_path / "1.tar").write_bytes((tmp_path / "0.tar").read_bytes()[:5000])
    (tmp_path / "2.tar").write_bytes(b"none")
    pairs = Pairs.open(f"{tmp_path}/{{0..2}}.tar")
    assert len(list(pairs)) == 5
    assert dict(pairs.skipped) == {"the rest of a damaged shard": 1, "a shard that cannot be read": 1}


def test_a_pickled_member_is_not_opened(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", range(2), extra={"x.pkl": b"\x80\x04", "y.pyd": b"\x80\x04"})
    pairs = Pairs.open(path)
    check(pairs, 2)
    assert dict(pairs.skipped) == {"no picture, video or sound": 2}


def test_missing_shards_are_told(tmp_path: Path) -> None:
    write_shards(tmp_path, 3, 2)
    pairs = Pairs.open(f"{tmp_path}/{{00000..00004}}.tar")
    assert pairs.notes[0].startswith("2 of 5 shards are missing")
    check(pairs, 6)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("nowhere", "nothing is at"),
        ("empty", "no pictures, videos or sounds"),
        ("https://x.org/a.tar", "not on this machine"),
        ("file.xyz", "of no kind that is known"),
        ("wrong.csv", "no column that looks like pictures"),
        ("head.csv", "has no rows"),
        ("{00..03}.tar", "none of 4 shards is there"),
        ("bad.parquet", "no Parquet file that can be read"),
        ("", "no source was named"),
    ],
)
def test_one_line_says_what_is_wrong(spec: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.xyz").write_text("x")
    (tmp_path / "wrong.csv").write_text("a,b\n1,2\n")
    (tmp_path / "head.csv").write_text("image,caption\n")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match=says) as caught:
        Pairs.open(spec)
    assert "\n" not in str(caught.value)


def test_settable_columns(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\nx.png,hello\n")
    pairs = Pairs.open(tmp_path / "t.csv", columns={"image": "a", "caption": "b"}, root="/far")
    assert [(row.image, row.caption) for row in pairs] == [(os.path.join("/far", "x.png"), "hello")]
    with pytest.raises(InputError, match="has no column 'c'"):
        Pairs.open(tmp_path / "t.csv", columns={"image": "c"})


def test_survey_tells_what_is_missing(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", 8)
    for i in range(4):
        (tmp_path / "a" / f"{i:04d}.txt").unlink()
    assert survey(Pairs.open(tmp_path / "a")).lines() == ["4 of 8 rows (50 %): no caption"]
    one = write_folder(tmp_path / "b", 4, classes=1)
    assert "one class" in survey(Pairs.open(one, kind="classes")).lines()[0]
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "x.png").write_bytes(picture(0))
    assert survey(Pairs.open(tmp_path / "c")).lines() == [
        "no row has a caption or a label: put a .txt beside each picture, or a folder a class"
    ]


def test_classes_are_found_or_missed_in_one_line(tmp_path: Path) -> None:
    assert classes_of(Pairs.open(write_table(tmp_path / "t" / "rows.csv", 5))) == ("0", "1", "2")
    assert classes_of(Pairs.open(write_folder(tmp_path / "two", 4, classes=2))) == ("class0", "class1")
    with pytest.raises(InputError, match="all labels of one are 'class0'"):
        classes_of(Pairs.open(write_folder(tmp_path / "one", 4, classes=1), kind="classes"))
    with pytest.raises(InputError, match="no row of none has a label"):
        classes_of(Pairs.open(write_folder(tmp_path / "none", 4)))


def test_a_tar_among_pictures_is_left_alone(tmp_path: Path) -> None:
    write_folder(tmp_path, 3)
    write_tar(tmp_path / "backup.tar", range(9))
    check(Pairs.open(tmp_path), 3)


@pytest.mark.parametrize("kind", "tar tar.gz csv jsonl parquet hf".split())
def test_damage_is_counted_never_raised_never_silent(kind: str, tmp_path: Path) -> None:
    """Bytes are overwritten and files cut at random: all rows come, or something was said."""
    random = np.random.default_rng(5)
    spec = tmp_path / f"a.{kind}"
    if kind.startswith("tar"):
        target = write_tar(spec, range(12), mode="w:gz" if kind == "tar.gz" else "w")
    elif kind == "parquet":
        target = write_parquet(spec, 12, 5)
    elif kind == "hf":
        target = write_hf(spec, 12) / "train" / "data-00000-of-00002.arrow"
    else:
        target = write_table(spec, 12)
    clean = target.read_bytes()
    for _ in range(25):
        data = bytearray(clean)
        for at in random.integers(0, len(data), random.integers(1, 6)):
            data[at] = random.integers(0, 256)
        target.write_bytes(bytes(data[: random.integers(1, len(data))] if random.random() < 0.2 else data))
        try:
            pairs = Pairs.open(spec)
            good = len(list(pairs))
        except InputError:
            continue
        # A table in text cannot know that its end is missing, nor that a new line is none of its own.
        assert good >= 12 or pairs.skipped or kind in ("csv", "jsonl")


@pytest.mark.data
def test_tables_at_hand(shared_data: Path) -> None:
    stamps = Pairs.open(shared_data / "stamps.parquet")
    row = next(iter(stamps))
    assert len(stamps) == 640
    assert isinstance(row.image, bytes)
    assert row.caption
    photos = Pairs.open(shared_data / "imagenet1k_photos.parquet")
    first = next(iter(photos))
    assert first.label == first.metadata.get("name", first.label)


def test_a_relative_folder_is_read_wherever_one_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "pictures", 3)
    monkeypatch.chdir(tmp_path)
    pairs = Pairs.open("pictures")
    monkeypatch.chdir("/")
    assert [number_of(open_image(row.image).image) for row in pairs if row.image is not None] == [0, 1, 2]
