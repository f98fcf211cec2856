"""The WordNet reader on a small net of our own, and on the real one where it is at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from binderclip.data.wordnet import WordNet
from binderclip.errors import InputError, UnknownNameError

ROWS = [
    ("n1", "n", ["entity"], "all that is", []),
    ("n2", "n", ["animal", "beast"], 'a living thing; "an animal ran"; "beasts of prey"', ["n1"]),
    ("n3", "n", ["pet"], "kept at home; with care", ["n1"]),
    ("n4", "n", ["dog", "Canis familiaris"], "it barks", ["n2", "n3"]),
    ("v1", "v", ["dog", "chase"], "go after", []),
    ("n5", "n", ["loop"], "its own kind", ["n6", "n9"]),
    ("n6", "n", ["pool"], "a ring", ["n5"]),
    ("s1", "s", ["furry"], "with fur", []),
]


@pytest.fixture
def net(tmp_path: Path) -> WordNet:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    columns = dict(zip(("id", "pos", "lemmas", "gloss", "hypernyms"), map(list, zip(*ROWS, strict=True)), strict=True))
    types = {"lemmas": pa.list_(pa.string()), "hypernyms": pa.list_(pa.string())}
    table = pa.table({name: pa.array(values, types.get(name)) for name, values in columns.items()})
    pq.write_table(table, tmp_path / "net.parquet", row_group_size=3)
    return WordNet(tmp_path / "net.parquet")


def test_words_and_glosses(net: WordNet) -> None:
    assert len(net) == 8
    assert [s.id for s in net.synsets("DOG")] == ["n4", "v1"]
    assert [s.id for s in net.synsets("dog", "v")] == ["v1"]
    assert [s.id for s in net.synsets("furry", "a")] == ["s1"]
    assert net.synsets("cat") == []
    assert net.synonyms("canis_familiaris") == ["dog"]
    assert net.synonyms("dog") == ["Canis familiaris", "chase"]
    assert net.glosses("animal") == ["a living thing"]
    assert net["n2"].examples == ("an animal ran", "beasts of prey")
    assert net.glosses("pet") == ["kept at home; with care"]


def test_kinds(net: WordNet) -> None:
    assert [s.id for s in net.hypernyms("n4")] == ["n2", "n3"]
    assert [[s.id for s in chain] for chain in net.chains("n4")] == [["n2", "n1"], ["n3", "n1"]]
    assert [s.id for s in net.ancestors("n4")] == ["n2", "n3", "n1"]
    assert [s.id for s in net.hyponyms("n1")] == ["n2", "n3"]
    assert net.descendants("n1") == {"n2", "n3", "n4"}
    assert [s.id for s in net.ancestors("n5")] == ["n6"]  # a ring ends, an id that is not there is passed over
    assert net.chains("n5") == [[net["n6"]]]
    assert net.chains("n1") == [[]]


def test_what_is_not_there(net: WordNet, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="no id 'n77'"):
        net["n77"]
    with pytest.raises(InputError, match="cannot be read"):
        WordNet(tmp_path / "no.parquet")
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": ["x"]}), tmp_path / "half.parquet")
    with pytest.raises(InputError, match="no column pos, lemmas, gloss, hypernyms"):
        WordNet(tmp_path / "half.parquet")


@pytest.mark.data
def test_the_real_one(shared_data: Path) -> None:
    net = WordNet(shared_data / "wordnet.parquet")
    dog = net["n02084071"]
    assert "domestic dog" in dog.lemmas
    assert "animal" in {lemma for above in net.ancestors(dog.id) for lemma in above.lemmas}
    assert all(chain[-1].lemmas == ("entity",) for chain in net.chains(dog.id))
    assert "automobile" in net.synonyms("car", "n")
    assert dog.id in net.descendants("n00015388")
