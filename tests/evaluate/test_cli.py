"""The command: what it prints and writes, what it keeps, and one clear line for each kind of bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from binderclip.cli import evaluate as command
from binderclip.errors import BinderclipError, InputError, UnknownNameError
from tests.evaluate.helpers import COLOURS, ColourEncoder, picture, write_folder

made: list[ColourEncoder] = []


@pytest.fixture(autouse=True)
def _colour_models(monkeypatch: pytest.MonkeyPatch) -> None:
    made.clear()

    def build(name: str) -> ColourEncoder:
        encoder = ColourEncoder(name, noise=0.0 if name == "pocket" else 0.3)
        encoder.name = name
        made.append(encoder)
        return encoder

    monkeypatch.setattr("binderclip.engine.Encoder", build)


def run(*arguments: object) -> int:
    app = typer.Typer()
    app.command("evaluate", epilog=command.EPILOG)(command.evaluate)
    app.callback()(lambda: None)
    code: Any = app(args=["evaluate", *map(str, arguments)], standalone_mode=False)
    return int(code or 0)


def test_class_folders_are_measured_at_the_first_try(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--data", write_folder(tmp_path / "photos")) == 0
    out, err = capsys.readouterr()
    assert "zero-shot: pocket on photos" in out
    assert "100.0" in out
    assert "calibration" in out
    assert "sentence of its class" in err


def test_two_models_a_page_tables_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = write_folder(tmp_path / "photos"), tmp_path / "out"
    page = tmp_path / "r.html"
    ask = ("pocket", "noisy", "-d", root, "-p", "zero-shot,knn", "-o", out, "--html", page, "--json", "-t", "a {}")
    assert run(*ask) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(r["probe"], r["model"]) for r in found] == [
        (probe, model) for model in ("pocket", "noisy") for probe in ("zero_shot", "knn")
    ]
    assert found[0]["settings"]["options"]["templates"] == "a {}"
    assert page.read_text("utf-8").count("data:image/jpeg") > 0
    assert sorted(path.name for path in out.iterdir()) == ["clip_benchmark", "items", "numbers.csv", "results"]
    theirs = json.loads((out / "clip_benchmark" / "zero_shot-noisy.json").read_text())
    assert theirs["task"] == "zeroshot_classification"
    assert (out / "items" / "zero_shot-pocket.csv").read_text().startswith("id,label,prediction")
    assert [encoder.pictures for encoder in made] == [30, 30]
    assert run(*ask) == 0
    assert [encoder.pictures for encoder in made] == [30, 30, 0, 0]  # nothing changed: nothing is encoded
    capsys.readouterr()
    assert (
        run("-d", root, "-p", "zero-shot", "--beside", out / "clip_benchmark" / "zero_shot-noisy.json", "--json") == 0
    )
    assert [r["model"] for r in json.loads(capsys.readouterr().out)] == ["pocket", "noisy noisy"]


def test_train_and_test_folders_and_outliers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "set"
    write_folder(root / "train", 4, start=50)
    write_folder(root / "test", 2)
    other = tmp_path / "other"
    other.mkdir()
    for n in range(3):
        picture("grey", n).save(other / f"{n}.png")
    assert run("-d", root, "--outliers", other, "--json", "--option", "knn.k=3") == 0
    found = {r["probe"]: r for r in json.loads(capsys.readouterr().out)}
    assert {"zero_shot", "knn", "linear_probe", "ood"} <= set(found)
    assert found["knn"]["notes"][0] == "24 neighbours to choose from"
    assert found["knn"]["settings"]["options"]["k"] == 3
    assert found["zero_shot"]["data"] == "set"
    assert found["zero_shot"]["metrics"][0]["n"] == 12


def test_captions_are_retrieved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = []
    for n, colour in enumerate(COLOURS):
        picture(colour, n).save(tmp_path / f"{n}.png")
        lines.append(json.dumps({"path": f"{n}.png", "caption": f"a {colour} thing"}))
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    assert run("-d", tmp_path / "t.jsonl", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [r["probe"] for r in found] == ["retrieval", "clipscore", "modality_gap"]
    assert found[0]["standard"]["metrics"]["image_retrieval_recall@1"] == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "name the data to measure on"),
        (["-d", "{root}", "-l", "red,red"], "given twice"),
        (["-d", "{root}", "-l", "red,blue"], "none of the 2 class names"),
        (["-d", "{root}/red", "-p", "zero-shot"], "has no labels"),
        (["-d", "{root}/red"], "neither class names nor captions"),
        (["-d", "{root}", "-p", "ood"], "--outliers DIR"),
        (["-d", "{root}", "-p", "retrieval"], "0 pictures with a caption"),
        (["-d", "{root}", "-p", "knn", "--option", "knn.q=3"], "knn has no option 'q'"),
        (["-d", "{root}", "-p", "knn", "--option", "k=3"], "write it as knn.k=10"),
        (["-d", "{root}", "-p", "knn", "--option", "ood.T=3"], "not among the probes"),
        (["-d", "{root}", "-p", "knn", "--option", 'knn.k="x"'], "cannot work with its options"),
        (["-d", "{root}", "-p", "knn", "--option", "knn.k=0"], "must be at least 1"),
        (["-d", "{root}", "-p", "calibration", "--option", "calibration.bins=-1"], "cannot work with its options"),
        (["-d", "{root}", "-t", "no place"], "no templates are called"),
        (["-d", "{root}/nothing"], "nothing is at"),
        (["-d", "{empty}"], "no pictures"),
        (["-d", "{one}", "-p", "zero-shot", "-l", "red"], "one class only"),
        (["-d", "{root}", "--beside", "{one}/t.csv"], "cannot be read as JSON"),
        (["-d", "{root}", "-p", "zero-shot", "--html", "{root}/no/r.html"], "cannot be written"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path: Path, options: list[str], message: str) -> None:
    root, empty, one = write_folder(tmp_path / "photos", 3), tmp_path / "empty", tmp_path / "one"
    empty.mkdir()
    one.mkdir()
    picture("red", 0).save(one / "a.png")
    (one / "t.csv").write_text("path,label\na.png,red\n")
    places = {"{root}": root, "{empty}": empty, "{one}": one / "t.csv" if "-l" in options else one}
    filled = []
    for text in options:
        for name, place in places.items():
            text = text.replace(name, str(place))
        filled.append(text)
    with pytest.raises(BinderclipError, match=message) as caught:
        run(*filled)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, InputError | UnknownNameError)


def test_an_unknown_probe_is_told_before_anything_is_encoded(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean knn"):
        run("-d", write_folder(tmp_path / "photos", 1), "-p", "zero-shot,kn")
    assert made == []
