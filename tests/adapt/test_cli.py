"""`binderclip adapt fit` and `predict`: what they print and keep, and one clear line for each kind of bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from binderclip.adapt.heads import load_head
from binderclip.cli.adapt import adapt_app
from binderclip.cli.console import fail
from binderclip.data.pairs import Pairs
from binderclip.errors import BinderclipError
from tests.evaluate.helpers import COLOURS, ColourEncoder, picture, write_folder

Captured = pytest.CaptureFixture[str]
made: list[ColourEncoder] = []


@pytest.fixture(autouse=True)
def _colour_models(monkeypatch: pytest.MonkeyPatch) -> None:
    made.clear()

    def build(name: str) -> ColourEncoder:
        encoder = ColourEncoder(name, noise=0.1)
        encoder.name = name
        made.append(encoder)
        return encoder

    monkeypatch.setattr("binderclip.engine.Encoder", build)


def go(*arguments: object) -> int:
    """As `main.run` does it."""
    try:
        code: Any = adapt_app(args=list(map(str, arguments)), standalone_mode=False)
    except BinderclipError as error:
        fail(str(error))
        return 2
    return int(code or 0)


def test_fit_tells_what_was_gained_and_predict_uses_it(tmp_path: Path, capsys: Captured) -> None:
    photos, head = write_folder(tmp_path / "photos", per_class=12), tmp_path / "head.safetensors"
    assert go("fit", photos, "--shots", 4, "--out", tmp_path / "head") == 0
    out, err = capsys.readouterr()
    assert "zero-shot" in out
    assert "gda" in out
    assert f"head: {head}" in out
    assert "learnt 6 classes from 24 pictures; alpha = " in err
    # held-out and validation pictures once, ten views of each shot
    facts = load_head(head).figures
    assert made[0].pictures <= facts["held_out"] + 24 * 10 + 24
    new = tmp_path / "new"
    new.mkdir()
    for k, colour in enumerate(COLOURS):
        picture(colour, 700 + k).save(new / f"{colour}.png")
    (new / "broken.png").write_bytes(b"\x89PNG no more")
    assert go("predict", head, new, "--json", "--top", 2) == 0
    out, err = capsys.readouterr()
    rows = json.loads(out)
    assert len(rows) == 6
    assert all(len(row["classes"]) == 2 for row in rows)
    assert sum(row["classes"][0]["label"] == Path(row["path"]).stem for row in rows) >= 4
    assert "broken.png" in err
    assert "1 could not be read, 6 classified" in err
    assert go("predict", head, new / "red.png") == 0
    assert "red.png" in capsys.readouterr().out


def test_json_holds_the_same_figures_and_a_loaded_head_repeats_them(tmp_path: Path, capsys: Captured) -> None:
    photos, figures = write_folder(tmp_path / "photos", per_class=10), {}
    for method in ("zero_shot", "tip_adapter", "linear_probe", "gda"):
        assert go("fit", photos, "--method", method, "--out", tmp_path / method, "--json") == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["method"] == method
        assert facts["learnt_from"] + facts["validation"] + facts["held_out"] == 60
        figures[method] = facts["accuracy"]
        # the held-out pictures again, through the file
        from binderclip.adapt.splits import split

        pairs = Pairs.open(photos, kind="classes")
        rows = [pairs.row(i) for i in range(pairs.rows)]
        test = split([r.id for r in rows], [pairs.label_number(r.label) for r in rows])[2]
        again = load_head(Path(facts["head"])).adapter(ColourEncoder("pocket", noise=0.1))
        assert again.score([rows[i].image for i in test], [rows[i].label for i in test]) == facts["accuracy"]
    assert figures["zero_shot"] == facts["zero_shot"]


def test_options_come_from_the_constructor(tmp_path: Path, capsys: Captured) -> None:
    photos = write_folder(tmp_path / "photos")
    assert go("fit", photos, "--set", "alpha=0", "--set", "n_views=1", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["chosen"] == {"alpha": 0.0}
    assert facts["accuracy"] == facts["zero_shot"]
    assert go("fit", photos, "--method", "tip-adapter", "--set", "scales=[2, 3]", "--json") == 0
    assert json.loads(capsys.readouterr().out)["chosen"]["beta"] < 2
    assert go("fit", photos, "--set", "covariance=oas", "-t", "a {} thing", "-t", "{}", "--json") == 0


def test_few_pictures_are_no_error(tmp_path: Path, capsys: Captured) -> None:
    photos = write_folder(tmp_path / "photos", per_class=1)
    assert go("fit", photos, "--set", "n_views=1", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["held_out"] == 0
    assert "zero-shot's" in err
    assert go("fit", photos) == 0
    assert "too few pictures to hold any out" in capsys.readouterr().err


def broken(tmp_path: Path) -> dict[str, tuple[list[object], str]]:
    """Arguments and a part of the one line they are answered with."""
    photos = write_folder(tmp_path / "photos", per_class=3)
    (tmp_path / "empty").mkdir()
    (tmp_path / "one" / "red").mkdir(parents=True)
    picture("red", 1).save(tmp_path / "one" / "red" / "a.png")
    text = tmp_path / "words.png"
    text.write_text("these are words")
    (tmp_path / "false" / "a").mkdir(parents=True)
    (tmp_path / "false" / "b").mkdir()
    for name in "ab":
        (tmp_path / "false" / name / "words.png").write_text("these are words")
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(b"\x10\0\0\0\0\0\0\0{half")
    other = tmp_path / "other.safetensors"
    save_file({"x": np.zeros(3)}, other)
    fit = ["fit", photos, "--out", tmp_path / "new.safetensors"]
    return {
        "no folder": (["fit", tmp_path / "nowhere"], "is no folder"),
        "a file": (["fit", text], "is no folder"),
        "empty": (["fit", tmp_path / "empty"], "no pictures"),
        "one class": (["fit", tmp_path / "one"], "at least two folders"),
        "text": (["fit", tmp_path / "false", "--out", tmp_path / "new"], "can be read"),
        "method": ([*fit, "--method", "gdaa"], "did you mean gda"),
        "no adapter": ([*fit, "--method", "clipa"], "is no adapter but"),
        "option": ([*fit, "--set", "alhpa=1"], "has no option 'alhpa': it has alpha=None"),
        "no value": ([*fit, "--set", "alpha"], "write it as alpha=0.5"),
        "value": ([*fit, "--set", "alpha=much"], "check --set"),
        "covariance": ([*fit, "--set", "covariance=round"], "use one of"),
        "out": (["fit", photos, "--out", tmp_path / "none" / "x"], "make it first"),
        "out there": (["fit", photos, "--out", other], "is there already"),
        "head": (["predict", tmp_path / "nothing", text], "no head that can be read"),
        "torn": (["predict", torn, text], "no head that can be read"),
        "other": (["predict", other, text], "holds no head"),
    }


NAMES = (
    "no folder,a file,empty,one class,text,method,no adapter,option,no value,value,covariance,out,out there,head,torn,other"
).split(",")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_wrong_is_one_line_and_nothing_is_written(name: str, tmp_path: Path, capsys: Captured) -> None:
    cases = broken(tmp_path)
    assert set(cases) == set(NAMES)
    before = sorted(tmp_path.rglob("*"))
    arguments, message = cases[name]
    assert go(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert len([line for line in err.splitlines() if "error:" in line]) == 1
    assert len(err.strip().splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_head_knows_its_model_and_its_arrays(tmp_path: Path, capsys: Captured) -> None:
    photos, head = write_folder(tmp_path / "photos"), tmp_path / "head.safetensors"
    assert go("fit", photos, "--out", head, "--json") == 0
    assert go("predict", head, photos / "red", "--model", "another") == 2
    assert "of another state" in capsys.readouterr().err
    found = load_head(head)
    state = {key: (value[:, :-1] if key == "w" else value) for key, value in found.state.items()}
    about = {"format": 1, "method": "gda", "classes": list(COLOURS), "params": {}, "model": "pocket"}
    for name, arrays, header, message in (
        ("cut", state, about | {"fingerprint": "pocket"}, "do not fit gda"),
        ("poor", {}, about | {"fingerprint": "pocket"}, "do not fit gda"),
        ("headless", state, about, "header lacks 'fingerprint'"),
        ("foreign", state, about | {"fingerprint": "", "method": "unheard_of"}, "'unheard_of', which is not here"),
    ):
        path = tmp_path / f"{name}.safetensors"
        save_file(
            {k: np.ascontiguousarray(v) for k, v in arrays.items()}, path, {"binderclip_head": json.dumps(header)}
        )
        assert go("predict", path, photos / "red") == 2
        err = capsys.readouterr().err
        assert message in err
        assert len(err.strip().splitlines()) == 1
    assert go("predict", head, tmp_path / "nowhere.png") == 2
    words = tmp_path / "words.png"
    words.write_text("these are words")
    assert go("predict", head, words) == 2
    assert "no picture could be read" in capsys.readouterr().err


def test_help_shows_an_example(capsys: Captured) -> None:
    for verb in ("fit", "predict"):
        with pytest.raises(SystemExit) as left:
            adapt_app(args=[verb, "--help"])
        assert left.value.code == 0
        assert f"binderclip adapt {verb}" in capsys.readouterr().out


def test_splits_are_of_the_ids() -> None:
    from binderclip.adapt.splits import few_shot, split

    ids, y = [f"{c}/{n}" for c in "abc" for n in range(40)], np.repeat([0, 1, 2], 40)
    learn, aside, test = (set(np.array(ids)[part]) for part in split(ids, y, seed=1))
    assert learn | aside | test == set(ids)
    assert len(learn) + len(aside) + len(test) == 120
    assert 0.1 < len(test) / 120 < 0.3
    order = np.random.default_rng(0).permutation(120)
    turned = split([ids[i] for i in order], y[order], seed=1)
    assert {ids[order[i]] for i in turned[2]} == test
    more = split([*ids, "d/1", "d/2"], [*y, 3, 3], seed=1)
    assert {([*ids, "d/1", "d/2"])[i] for i in more[2]} - {"d/1", "d/2"} == test
    few = [set(few_shot(ids, y, k, seed=1)[0]) for k in (1, 2, 4)]
    assert few[0] < few[1] < few[2]
    learn4, aside4 = few_shot(ids, y, 4)
    assert not set(learn4) & set(aside4)
    assert (np.bincount(y[learn4]) == 4).all()
    assert (np.bincount(y[aside4]) == 4).all()
    assert len(few_shot(["a", "b"], [0, 0], 5)[0]) == 2


def test_the_smallest_picture_is_a_picture(tmp_path: Path, capsys: Captured) -> None:
    photos = write_folder(tmp_path / "photos")
    picture("red", 9, side=1).save(photos / "red" / "dot.png")
    (photos / "red" / "film.mp4").write_text("these are words")
    (photos / "loose.txt").write_text("a caption of nothing")
    assert go("fit", photos, "--json") == 0
    out, err = capsys.readouterr()
    facts = json.loads(out)
    assert facts["learnt_from"] + facts["validation"] + facts["held_out"] == 31
    assert "1 files are in no class folder or no pictures, and are left out" in err
