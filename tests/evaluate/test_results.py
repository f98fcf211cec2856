"""Pictures are encoded once; results are data that are made again only when something changed; data are read in any form."""

from __future__ import annotations

import csv
import io
import json
import math
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from binderclip.data.embeddings import Embeddings
from binderclip.errors import InputError
from binderclip.evaluate import probes
from binderclip.evaluate.base import Metric, Report
from binderclip.evaluate.data import Dataset, Item, Sets
from binderclip.evaluate.reading import open_dataset
from binderclip.evaluate.store import Store, evaluate
from binderclip.evaluate.vectors import Vectors
from tests.evaluate.helpers import COLOURS, ColourEncoder, colours, picture, write_folder

MANY = ("zero-shot", "retrieval", "knn", "linear-probe", "calibration", "modality-gap", "clipscore")


def test_pictures_are_encoded_once_for_many_probes() -> None:
    data, encoder = colours(4, captions=1), ColourEncoder(noise=0.1)
    vectors = Vectors(encoder, batch=10)
    texts = []
    for name in MANY:
        evaluate(vectors, Sets(data), probes.load(name))
        texts.append(encoder.sentences)
    assert encoder.pictures == 24
    assert encoder.calls == 3  # batches of ten
    assert texts[-1] == len(vectors._texts)  # nor was any text encoded twice


def test_given_vectors_are_not_made_again() -> None:
    data, encoder = colours(3), ColourEncoder()
    table = Embeddings.from_arrays(data.ids, encoder.encode_image([i.image for i in data.items]), fingerprint="c0")
    before = encoder.pictures
    report = evaluate(Vectors(encoder, images=table), Sets(data), probes.load("zero-shot"))
    assert encoder.pictures == before
    assert report["acc1"] == 1.0
    labelled = Embeddings.from_arrays(data.ids, table.matrix, labels=[i.id.split("/")[0] for i in data.items])
    bare = Dataset.from_embeddings(labelled)
    assert bare.classes == tuple(sorted(COLOURS))
    assert evaluate(Vectors(encoder, images=table), Sets(bare), probes.load("zero-shot"))["acc1"] == 1.0
    alone = Vectors(None, images=table)
    assert evaluate(alone, Sets(bare), probes.load("knn"))["acc1"] > 0.5
    with pytest.raises(InputError, match="this needs the model"):
        evaluate(alone, Sets(bare), probes.load("zero-shot"))
    with pytest.raises(InputError, match="another model"):
        Vectors(ColourEncoder("c1"), images=table)


def test_a_result_is_made_again_only_when_settings_change(tmp_path: Path) -> None:
    data, store = colours(3), Store(tmp_path / "results")
    first = evaluate(Vectors(ColourEncoder()), Sets(data), probes.load("zero-shot"), store)
    again = ColourEncoder()
    assert evaluate(Vectors(again), Sets(data), probes.load("zero-shot"), store).to_json() == first.to_json()
    assert again.pictures == again.sentences == 0
    changes = [
        (ColourEncoder("other"), data, {}),
        (ColourEncoder(), colours(3, start=40), {}),
        (ColourEncoder(), data, {"templates": "a {}"}),
        (ColourEncoder(), replace(data, classes=(*data.classes[:5], "gray|grey")), {}),
    ]
    for number, (encoder, changed, options) in enumerate(changes, 2):
        evaluate(Vectors(encoder), Sets(changed), probes.load("zero-shot", **options), store)
        assert encoder.pictures == 18
        assert len(list(store.folder.iterdir())) == number
    nameless = ColourEncoder("")
    for _ in range(2):
        evaluate(Vectors(nameless), Sets(data), probes.load("zero-shot"), store)
    assert nameless.pictures == 36  # nobody could tell whether it changed


def test_a_damaged_result_is_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    evaluate(Vectors(ColourEncoder()), Sets(colours(2)), probes.load("zero-shot"), store)
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text()[:100])
    encoder = ColourEncoder()
    assert evaluate(Vectors(encoder), Sets(colours(2)), probes.load("zero-shot"), store)["acc1"] == 1.0
    assert encoder.pictures == 12


def test_unreadable_pictures_are_counted(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", 2)
    (root / "red" / "broken.png").write_bytes(b"no picture")
    data = open_dataset(root)
    encoder = ColourEncoder()
    report = evaluate(Vectors(encoder), Sets(data), probes.load("zero-shot"))
    assert report.metrics[0].n == 12
    assert "left out as unreadable: 1" in report.notes[-1]
    for path in root.rglob("*.png"):
        path.write_bytes(b"x")
    with pytest.raises(InputError, match="no picture of d can be read"):
        evaluate(Vectors(ColourEncoder()), Sets(open_dataset(root)), probes.load("zero-shot"))


# -- reports -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MANY)
def test_reports_survive_json(name: str) -> None:
    report = evaluate(Vectors(ColourEncoder(noise=0.2)), Sets(colours(4, captions=1)), probes.load(name))
    text = json.dumps(report.to_json(), allow_nan=False)
    back = Report.from_json(json.loads(text))
    assert back.to_json() == report.to_json()
    assert [m.n for m in back.metrics] == [m.n for m in report.metrics]
    assert all(m.n > 0 for m in report.metrics)
    rows = list(csv.DictReader(io.StringIO(report.rows_csv())))
    assert len(rows) == len(report.rows) > 0


def test_clip_benchmarks_keys_are_written_and_read() -> None:
    report = evaluate(Vectors(ColourEncoder()), Sets(colours(3, captions=2)), probes.load("retrieval"))
    theirs = report.clip_benchmark()
    assert list(theirs) == ["dataset", "model", "pretrained", "task", "metrics", "language"]
    assert theirs["task"] == "zeroshot_retrieval"
    assert {"image_retrieval_recall@5", "text_retrieval_recall@5"} <= set(theirs["metrics"])
    back = Report.from_clip_benchmark(json.loads(json.dumps(theirs)))
    assert back.probe == "retrieval"
    assert back["image_retrieval_recall@5"] == report["image_retrieval_recall@5"]
    with pytest.raises(InputError, match="no result of CLIP_benchmark"):
        Report.from_clip_benchmark({"metrics": 3})


def test_undefined_numbers_are_null() -> None:
    report = Report("p", "m", "d", (Metric("acc5", float("nan"), 3),))
    assert report.to_json()["metrics"][0]["value"] is None
    assert math.isnan(Report.from_json(report.to_json())["acc5"])
    for wrong in ({}, {"format": 9}, {"format": 1}):
        with pytest.raises(InputError, match="this"):
            Report.from_json(wrong)
    with pytest.raises(InputError, match="has no number 'x'"):
        report["x"]


# -- reading data --------------------------------------------------------------------------------------------------------


def test_class_folders(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "photos", 2)
    (root / "red").rename(root / "dark_red")
    data = open_dataset(root)
    assert "dark red" in data.classes
    assert len(data) == 12
    named = open_dataset(root, classes=["dark red|crimson", *[c for c in COLOURS if c != "red"]])
    assert named.classes[0] == "dark red|crimson"
    with pytest.raises(InputError, match=r"label '[a-z]+' of .* is none of the 2 class names"):
        open_dataset(root, classes=["dark red", "blue"])


def test_tables_with_numbers_captions_and_negatives(tmp_path: Path) -> None:
    for n, colour in enumerate(["red", "blue", "red"]):
        picture(colour, n).save(tmp_path / f"{n}.png")
    table = tmp_path / "t.csv"
    table.write_text("path,label\n0.png,0\n1.png,1\n2.png,0\n")
    data = open_dataset(table, classes=["red", "blue"])
    assert [item.labels for item in data.items] == [(0,), (1,), (0,)]
    numbers = open_dataset(table)
    assert not numbers.named
    with pytest.raises(InputError, match="give the class names"):
        evaluate(Vectors(ColourEncoder()), Sets(numbers), probes.load("zero-shot"))
    table.write_text("path,label\n0.png,0\n1.png,2\n")
    with pytest.raises(InputError, match=r"label 2 of .* out of range"):
        open_dataset(table, classes=["red", "blue"])
    lines = tmp_path / "t.jsonl"
    row = {"path": "0.png", "caption": "red on blue", "negatives": ["blue on red"], "type": "swap", "rating": 4}
    lines.write_text(json.dumps(row) + "\n")
    (item,) = open_dataset(lines).items
    assert (item.captions, item.negatives, item.kind, item.rating) == (("red on blue",), ("blue on red",), "swap", 4.0)
    many = tmp_path / "many.csv"
    many.write_text("path,labels\n0.png,red|blue\n1.png,blue\n")
    assert [item.labels for item in open_dataset(many).items] == [(1, 0), (0,)]


def test_clip_benchmark_files_beside_the_data(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "photos", 1)
    (root / "classnames.txt").write_text("\n".join(COLOURS) + "\n")
    (root / "zeroshot_classification_templates.txt").write_text("a nice {c}.\n{c}\n")
    data = open_dataset(root)
    assert data.classes == tuple(COLOURS)
    assert data.templates == ("a nice {}.", "{}")


def test_clip_benchmarks_shards(tmp_path: Path) -> None:
    """`classnames.txt` and templates at the top, `test/0.tar` with a picture and a class number a row."""
    (tmp_path / "test").mkdir()
    (tmp_path / "classnames.txt").write_text("\n".join(COLOURS))
    (tmp_path / "zeroshot_classification_templates.txt").write_text("a {c} square")
    (tmp_path / "test" / "nshards.txt").write_text("1")
    with tarfile.open(tmp_path / "test" / "0.tar", "w") as shard:
        for k, colour in enumerate(COLOURS):
            png = io.BytesIO()
            picture(colour, k).save(png, "PNG")
            for suffix, content in (("png", png.getvalue()), ("cls", str(k).encode())):
                member = tarfile.TarInfo(f"s{k:07d}.{suffix}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
    data = open_dataset(tmp_path, split="test")
    assert data.classes == tuple(COLOURS)
    assert data.templates == ("a {} square",)
    assert [item.labels for item in data.items] == [(k,) for k in range(6)]
    items = tuple(Item(colour, picture(colour, k), (k,)) for k, colour in enumerate(COLOURS))
    same = replace(data, items=items)
    one, two = (evaluate(Vectors(ColourEncoder()), Sets(d), probes.load("zero-shot")) for d in (data, same))
    assert [row["prediction"] for row in one.rows] == [row["prediction"] for row in two.rows]
    assert one["acc1"] == two["acc1"]


def test_other_classes_in_training(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="other classes"):
        Sets(colours(1), replace(colours(1), classes=("a", "b", "c", "d", "e", "f")))


def test_the_digest_sees_everything() -> None:
    data = colours(1, captions=1)
    other = replace(data.items[0], captions=("another",))
    assert data.digest == colours(1, captions=1).digest
    assert replace(data, items=(other, *data.items[1:])).digest != data.digest
    assert np.unique([d.digest for d in (data, colours(2), replace(data, templates=("{}",)))]).size == 3
