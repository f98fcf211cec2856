"""Scalable probing: tests against scipy, a planted effect, exact thresholds, hypernyms of a small net and the real one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from binderclip.data.wordnet import WordNet
from binderclip.errors import InputError
from binderclip.evaluate.data import Sets
from binderclip.evaluate.encoding import Columns, Sample, differing, encode
from binderclip.evaluate.metrics.significance import chi_square, fisher_exact, pearson, table_p, welch
from binderclip.evaluate.probes.feature_correlation import FeatureCorrelation, correlate, dominance
from binderclip.evaluate.vectors import Vectors
from binderclip.evaluate.wording import Lexicon, chunks, sentence_features, tags_of, words_of
from tests.evaluate.helpers import ColourEncoder, colours

pytestmark = pytest.mark.system("feature_correlation")

NET = [
    ("n01", "n", ["entity"], "all that is", []),
    ("n02", "n", ["organism"], "it lives", ["n01"]),
    ("n03", "n", ["animal"], "a living thing that moves", ["n02"]),
    ("n04", "n", ["canine"], "it barks", ["n03"]),
    ("n05", "n", ["domestic animal"], "kept at home", ["n03"]),
    ("n06", "n", ["frump", "dog"], "said of people", ["n02"]),
    ("n07", "n", ["dog", "domestic dog"], "a friend", ["n04", "n05"]),
    ("n08", "n", ["dog", "firedog"], "holds logs", ["n09"]),
    ("n09", "n", ["artifact"], "made", ["n01"]),
    ("v01", "v", ["chase", "dog"], "go after", []),
]
ANIMALS = "wolf fox cat cow horse sheep goat hen".split()
THINGS = "chair table cup lamp car boat house stone tree flower hill cloud".split()


def write_net(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = NET + [(f"a{i:02}", "n", [name], "", ["n03"]) for i, name in enumerate(ANIMALS)]
    rows += [(f"t{i:02}", "n", [name], "", ["n09"]) for i, name in enumerate(THINGS)]
    columns = dict(zip(("id", "pos", "lemmas", "gloss", "hypernyms"), map(list, zip(*rows, strict=True)), strict=True))
    types = {"lemmas": pa.list_(pa.string()), "hypernyms": pa.list_(pa.string())}
    pq.write_table(pa.table({k: pa.array(v, types.get(k)) for k, v in columns.items()}), folder / "net.parquet")
    return folder / "net.parquet"


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_net(tmp_path_factory.mktemp("net"))


@pytest.fixture(scope="module")
def planted(net: Path) -> tuple[Columns, np.ndarray]:
    """5,000 sentences of two nouns, and which of them name an animal."""
    rng = np.random.default_rng(0)
    nouns = [*ANIMALS, *THINGS]
    texts = [f"a {nouns[a]} near the {nouns[b]}" for a, b in rng.integers(0, len(nouns), (5000, 2))]
    samples = [Sample(str(i), text, 0.0) for i, text in enumerate(texts)]
    columns = encode(samples, Lexicon(WordNet(net)), ("words", "hypernyms", "length", "pos", "depth", "senses"))
    return columns, np.array([any(word in ANIMALS for word in words_of(text)) for text in texts])


def test_agrees_with_scipy() -> None:
    from scipy import stats

    rng = np.random.default_rng(0)
    for N in (12, 300, 5000):
        y = rng.normal(size=N) * 3 + 10
        B = np.stack([rng.permutation(N) < k for k in (3, N // 3, N - 4)], axis=1)
        y = y + B[:, 1]
        ours = welch(B, y)
        for f in range(3):
            theirs = stats.ttest_ind(y[B[:, f]], y[~B[:, f]], equal_var=False)
            ci = theirs.confidence_interval(0.95)
            got = [ours.coef[f], ours.statistic[f], ours.p[f], ours.low[f], ours.high[f]]
            want = [y[B[:, f]].mean() - y[~B[:, f]].mean(), theirs.statistic, theirs.pvalue, ci.low, ci.high]
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-10)
        X = rng.normal(size=(N, 3)) + 0.05 * y[:, None]
        ours = pearson(X, y)
        for f in range(3):
            theirs = stats.pearsonr(X[:, f], y)
            ci = theirs.confidence_interval(0.95)
            got = [ours.coef[f], ours.p[f], ours.low[f], ours.high[f]]
            np.testing.assert_allclose(got, [theirs.statistic, theirs.pvalue, ci.low, ci.high], rtol=0, atol=1e-10)


def test_tables_agree_with_scipy() -> None:
    from scipy import stats

    rng = np.random.default_rng(1)
    for _ in range(50):
        table = rng.integers(1, 30, (rng.integers(2, 5), rng.integers(2, 4)))
        value, p, df = chi_square(table)
        theirs = stats.chi2_contingency(table, correction=False)
        assert (value, p, df) == pytest.approx((theirs.statistic, theirs.pvalue, theirs.dof), abs=1e-10)
        small = rng.integers(0, 9, (2, 2))
        assert fisher_exact(small) == pytest.approx(stats.fisher_exact(small)[1], abs=1e-10)
    assert table_p([[1, 9], [4, 6]])[1] == "fisher"
    assert table_p([[0, 9], [0, 6]]) == (1.0, "chi-square")


def test_a_planted_effect_is_found(planted: tuple[Columns, np.ndarray]) -> None:
    columns, animal = planted
    top = covered = 0
    for seed in range(40):
        y = 0.3 * animal + np.random.default_rng(seed).normal(size=len(animal))
        rows = [r for r in correlate(columns, y)[0] if r["kind"] == "binary" and r["p"] <= 0.05]
        place = next((i for i, r in enumerate(rows) if r["feature"] == "word: kind of animal (n03)"), 99)
        top += place < 3
        covered += place < 99 and rows[place]["low"] <= 0.3 <= rows[place]["high"]
    assert top >= 36, f"in the top 3 of {top} of 40 seeds"
    assert covered >= 36, f"covered in {covered} of 40 seeds"


def test_permuted_values_show_nothing(planted: tuple[Columns, np.ndarray]) -> None:
    columns, animal = planted
    y = 0.3 * animal + np.random.default_rng(0).normal(size=len(animal))
    rng, raw, quiet = np.random.default_rng(1), [], 0
    for _ in range(20):
        rows, _ = correlate(columns, rng.permutation(y))
        raw.append(np.mean([row["p"] <= 0.05 for row in rows]))
        quiet += all(row["q"] > 0.05 for row in rows)
    assert np.mean(raw) == pytest.approx(0.05, abs=0.02)
    assert quiet >= 17


def test_the_threshold_is_exact() -> None:
    columns = Columns(1000)
    for name, count in (("rare", 99), ("kept", 100), ("common", 900), ("too common", 901)):
        for row in range(count):
            columns.mark(name, row)
    for name, count in (("few", 99), ("enough", 100)):
        for row in range(1000):
            columns.number(name, row, (2.0 + row) * (row < count))
    assert columns.binary(100)[0] == ["common", "kept"]
    assert columns.numeric(100)[0] == ["enough"]
    assert differing(columns.numbers["enough"]) == 100
    assert dict(columns.rare(100)) == {"rare": 99, "too common": 99, "few": 99}


def test_constant_and_missing() -> None:
    columns = Columns(300)
    for row in range(300):
        columns.mark("always", row)
        columns.number("same", row, 2.0)
        columns.number("same or unknown", row, 2.0 if row < 150 else float("nan"))
        columns.number("half known", row, float(row) if row < 150 else float("nan"))
    names, A, imputed = columns.numeric(100)
    assert (names, imputed) == (["half known"], 150)
    v = np.arange(150.0)
    np.testing.assert_allclose(A[:150, 0], (v - v.mean()) / v.std())
    np.testing.assert_array_equal(A[150:, 0], 0.0)
    assert columns.binary(100)[0] == []
    rows, cells = correlate(columns, np.arange(300.0))
    assert [row["feature"] for row in rows] == ["half known"]
    assert cells == 150
    assert differing(np.array([np.nan, np.nan, 1.0])) == 2


def test_hypernyms_of_dog(net: Path) -> None:
    lexicon = Lexicon(WordNet(net))
    direct, above, senses, depth = lexicon.facts("dogs", "NN")
    assert direct == {"canine (n04)", "domestic animal (n05)"}
    assert above == {"animal (n03)", "organism (n02)", "entity (n01)"}
    assert "artifact (n09)" not in direct | above  # of another meaning
    assert (senses, depth) == (4.0, 4.0)
    assert lexicon.synset("dogged", "VB").id == "v01"
    assert lexicon.facts("unheard", "NN")[:2] == (frozenset(), frozenset())


@pytest.mark.data
def test_hypernyms_of_dog_in_wordnet(shared_data: Path) -> None:
    lexicon = Lexicon(WordNet(shared_data / "wordnet.parquet"))
    direct, above, senses, _ = lexicon.facts("dog", "NN")
    assert direct == {"canine (n02083346)", "domestic animal (n01317541)"}
    assert "animal (n00015388)" in above
    assert senses == 8


def test_words_and_syntax() -> None:
    words = words_of("Two DOGS are running, across the wet field!")
    assert words == "two dogs are running across the wet field".split()
    assert tags_of(words) == ["CD", "NN", "VB", "VB", "IN", "DT", "JJ", "NN"]
    assert chunks(tags_of(words)) == 2
    facts = sentence_features(words, tags_of(words))
    assert (facts["plural"], facts["aspect"], facts["tense"], facts["has adjective"]) == (
        True,
        "progressive",
        "present",
        True,
    )
    passive = "the ball is kicked slowly".split()
    assert sentence_features(passive, tags_of(passive))["passive"] is True
    assert tags_of("a man sees the colourful kite".split())[2] == "VB"
    lexicon = Lexicon(classes={"motion": ["run*", "walk"]})
    assert (lexicon.classes_of("running"), lexicon.classes_of("walked")) == ({"motion"}, set())


def test_roles_come_from_the_negative(net: Path) -> None:
    lexicon = Lexicon(WordNet(net), {"dog": 10, "cat": 4}, {"dog": 4.5})
    one = Sample("0", "the dog near the chair", 1.0, "the cat near the chair")
    columns = encode([one], lexicon, ("words", "frequency", "concreteness"))
    assert {name for name in columns.rows if "word " in name} == {
        "original: word dog",
        "replacement: word cat",
        "common: word chair",
    }
    assert columns.numbers["change: frequency"] == [6.0]
    assert np.isnan(columns.numbers["change: concreteness"][0])
    assert columns.numbers["common: frequency"] == [0.0]
    plain = encode([replace(one, negative="")], lexicon, ("words",))
    assert set(plain.rows) == {"word: word dog", "word: word chair"}
    phrase = encode([Sample("0", "domestic dog", 1.0, phrase=True)], lexicon, ("words", "length"))
    assert set(phrase.rows) == {"word: word domestic dog"}


def test_as_a_probe(net: Path, tmp_path: Path) -> None:
    data = colours(6, captions=2)
    captioned = replace(data, items=tuple(replace(i, negatives=("a grey thing",)) for i in data.items))
    report = FeatureCorrelation(min_count=8, wordnet=str(net)).run(Vectors(ColourEncoder()), Sets(captioned))
    assert report["tested"] > 3
    grey = next(row for row in report.rows if row["feature"] == "common: word grey")
    assert grey["coef"] < 0  # its negative says the same colour
    assert grey["p"] < 1e-6
    assert "cosine of text and negative" in {row["feature"] for row in report.rows}
    positive = FeatureCorrelation(min_count=8, value="positive").run(Vectors(ColourEncoder()), Sets(captioned))
    assert not [row for row in positive.rows if "original" in row["feature"] or "negative" in row["feature"]]
    rows = tmp_path / "rows.csv"
    rows.write_text(
        "id,label,correct\n" + "".join(f"{i},{'dog' if i % 2 else 'cat'},{i % 2 == 1}\n" for i in range(40))
    )
    other = FeatureCorrelation(min_count=5, results=str(rows)).run(Vectors(ColourEncoder()), Sets(data))
    assert other["value"] == 0.5
    assert other.notes[0].startswith("correct of 40 texts")
    json.dumps(other.to_json(), allow_nan=False)
    with pytest.raises(InputError, match="needs the columns"):
        FeatureCorrelation(results=str(rows), column="margin").run(Vectors(ColourEncoder()), Sets(data))
    with pytest.raises(InputError, match="no feature or value 'smell'"):
        FeatureCorrelation(features=("smell",))
    with pytest.raises(InputError, match="cannot be read"):
        FeatureCorrelation(concreteness=str(tmp_path / "none.csv"))


def test_correlated_features_can_be_left_out(planted: tuple[Columns, np.ndarray]) -> None:
    columns, animal = planted
    y = 0.3 * animal + np.random.default_rng(0).normal(size=len(animal))
    few = correlate(columns, y, apart=0.8)[0]
    names = [row["feature"] for row in few]
    assert "word: far kind of organism (n02)" not in names or "word: kind of animal (n03)" not in names
    assert len(few) < len(correlate(columns, y)[0])


def test_dominance() -> None:
    have, right = np.array([1, 1, 0, 1, 0, 0]), np.array([1, 1, 1, 0, 0, 0])
    assert dominance(have, right) == pytest.approx((2 / 3) / (1 / 3))
    assert np.isnan(dominance(have, np.ones(6)))
