"""The harness: labels stay where they are, equal rows for all, one failure stops no other, results are kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from binderclip.adapt import trial as adapt_trial
from binderclip.cards import Card, find
from binderclip.cli.main import run
from binderclip.data.exams import Exam, digest_of
from binderclip.errors import InputError
from binderclip.evaluate.bench.process import ask
from binderclip.evaluate.bench.run import Result, bench, contestants, judged, rooms, trial_of
from binderclip.evaluate.bench.summary import mean_and_spread, summary

from . import cheating_trial

pytestmark = pytest.mark.system("bench")

CARD = Card("cheat", "", "", "adapt", "", "Adapter")


def exam(seed: int = 0) -> Exam:
    labels = np.concatenate([cheating_trial.MARK, np.random.default_rng(seed).integers(0, 8, 200)])
    return Exam("4 shots", 4.0, seed, {"questions": np.zeros((len(labels), 3)), "classes": 8}, labels)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_method_that_reaches_for_the_labels_fails() -> None:
    one = exam()
    found = cheating_trial.hunt()  # in this process the hunt is a real one: it succeeds
    assert found is not None
    assert np.array_equal(found, one.key)
    cheat, honest = (
        judged(CARD, one, next(ask("tests.evaluate.cheating_trial", slug, [one])), "classify")
        for slug in ("cheat", "honest")
    )
    assert cheat.measures["accuracy"] == honest.measures["accuracy"] == float((one.key == 0).mean())


def test_one_failure_stops_no_other() -> None:
    exams = [exam(0), exam(1)]
    broken = list(ask("tests.evaluate.cheating_trial", "broken", exams))
    assert [a.error for a in broken] == ["ValueError: no way"] * 2
    dead = list(ask("tests.evaluate.cheating_trial", "dead", exams))
    assert [a.error for a in dead] == ["its process ended with code 9"]
    assert judged(CARD, exams[1], None, "classify").error == "its process had ended"


def test_time_and_memory_are_the_methods_own() -> None:
    spent = next(ask("tests.evaluate.cheating_trial", "greedy", [exam()]))
    assert spent.memory > 20 * 2**21 * 8 * 0.9 or np.isnan(spent.memory)
    assert 0 < spent.cpu < 60


def test_an_answer_that_is_none() -> None:
    from binderclip.evaluate.bench.process import Answer

    assert "scores have shape (2,)" in judged(CARD, exam(), Answer(np.zeros(2)), "classify").error
    tied = judged(CARD, exam(), Answer(np.ones((208, 8))), "classify")
    assert tied.measures["accuracy"] == 0  # a tie is not right


def test_digest() -> None:
    value = {"a": np.arange(3), "b": ["x", 1.5, None], "c": {"d": np.float32(1)}}
    assert digest_of(value) == digest_of(dict(reversed(list(value.items()))))
    others = [{**value, "a": np.arange(3.0)}, {**value, "b": ["x", 1.5]}, {**value, "a": np.arange(3)[::-1]}]
    assert len({digest_of(value), *map(digest_of, others)}) == 4


def test_who_takes_part() -> None:
    assert {"adapt", "train"} <= set(rooms())
    names = [card.slug for card in contestants("adapt")]
    assert find(names[0]).baseline
    assert "gda" in names
    assert "clip_kd" in [card.slug for card in contestants("train")]
    with pytest.raises(InputError, match="flip is a Objective"):
        contestants("adapt", ["flip"])
    with pytest.raises(InputError, match="rooms with one are adapt"):
        trial_of("nowhere")


@pytest.fixture
def exams(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Exam]]:
    class Fake:
        """Colours: the vector of a picture is one of D axes with noise."""

        logit_scale, fingerprint, calls = 10.0, "fake", 0

        def encode_image(self, images: Any) -> Any:
            Fake.calls += len(images)
            rows = [np.asarray(one.image if hasattr(one, "image") else one) for one in images]
            made = np.stack([np.histogram(row, 16)[0] for row in rows]).astype(np.float32)
            return made / np.linalg.norm(made, axis=1, keepdims=True)

        def encode_text(self, texts: Any) -> Any:
            return np.eye(16, dtype=np.float32)[np.arange(len(texts)) % 16]

    monkeypatch.setattr(adapt_trial, "_encoder", lambda model: Fake())
    monkeypatch.setattr(adapt_trial, "encode_readable", lambda e, images, ids: (e.encode_image([np.frombuffer(
        str(i).encode(), np.uint8) for i in ids]), list(range(len(ids))), []))  # fmt: skip
    yield adapt_trial.open_trial("scenes:600?size=16&label=kind", seeds=(0, 1), settings=(1, 2, 1000))
    assert Fake.calls == 600  # once each, for all settings and seeds


def test_shots_are_no_questions_and_questions_are_the_same(exams: list[Exam]) -> None:
    assert [one.setting for one in exams] == ["1 shot", "1 shot", "2 shots", "2 shots"]
    for one in exams:
        assert np.array_equal(one.given["questions"], exams[0].given["questions"])
        assert np.array_equal(one.key, exams[0].key)
        shots = int(one.at)
        assert np.bincount(one.given["y"]).max() == shots
        assert not any(np.array_equal(value, one.key) for value in one.given.values() if isinstance(value, np.ndarray))
    assert not np.array_equal(exams[0].given["X"], exams[1].given["X"])  # another seed, other shots


def test_results_are_kept_and_summed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def fake_ask(module: str, slug: str, exams: list[Exam]) -> Iterator[Any]:
        asked.append(len(exams))
        return ask("tests.evaluate.cheating_trial", "honest", exams)

    monkeypatch.setattr("binderclip.evaluate.bench.run.ask", fake_ask)
    exams, card = [exam(0), exam(1)], find("gda")
    first = bench("adapt", exams, [card], folder=tmp_path)
    again = bench("adapt", exams, [card], folder=tmp_path)
    assert asked == [2]
    assert [r.measures for r in first] == [r.measures for r in again]
    next((tmp_path / "results").iterdir()).write_text("{ damaged")
    bench("adapt", [*exams, exam(2)], [card], folder=tmp_path)
    assert asked == [2, 2]  # the damaged one and the new one
    accuracies = [float((one.key == 0).mean()) for one in exams]
    mean, spread = mean_and_spread(first, "gda", 4.0, "accuracy")
    assert mean == pytest.approx(np.mean(accuracies))
    assert spread == pytest.approx(np.std(accuracies, ddof=1))
    failed = Result("tip_adapter", "4 shots", 4.0, 0, error="why")
    report = summary("adapt", "pocket", "photos", [*first, failed])
    assert report["gda accuracy, 4 shots"] == pytest.approx(mean)
    assert "failed: tip_adapter, 4 shots: why" in report.notes
    assert len(report.rows) == 3


@pytest.mark.slow
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Generated scenes: a linear probe on 8 shots beats the class names; equal seeds, equal figures."""
    common = ["bench", "adapt", "--data", "scenes:400?size=64&label=kind", "--method", "gda", "--method", "zero_shot"]
    assert run([*common, "--settings", "4", "--seeds", "2", "--json", "--html", str(tmp_path / "b.html")]) == 0
    found = json.loads(capsys.readouterr().out)
    values = {m["name"]: m["value"] for m in found["metrics"]}
    assert values["gda accuracy, 4 shots"] > values["zero_shot accuracy, 4 shots"]
    assert "<polyline" in (tmp_path / "b.html").read_text() or "accuracy" in (tmp_path / "b.html").read_text()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:a text of")
def test_objectives_at_equal_compute(capsys: pytest.CaptureFixture[str]) -> None:
    common = ["bench", "train", "--data", "scenes:256?size=32", "--settings", "0.5", "--seeds", "1", "--json"]
    assert run([*common, "--method", "contrastive"]) == 0
    names = {m["name"] for m in json.loads(capsys.readouterr().out)["metrics"]}
    assert names == {f"contrastive {m}, 0.5 s" for m in ("text_to_image", "image_to_text", "accuracy")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no bench of 'nowhere'"),
        (["adapt", "--settings", "a"], "write numbers over 0"),
        (["adapt", "--method", "no-such"], "no method is called"),
        (["train", "--data", "photos"], "bench train runs on generated scenes"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1
