"""Recipes: read, checked, changed and kept; every shipped one holds together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from binderclip.data.pairs import Pairs
from binderclip.errors import InputError, UnknownNameError
from binderclip.train.assemble import assemble, build_model, open_data
from binderclip.train.recipe import Recipe, dump_yaml, find_recipe, read_recipe, read_yaml, shipped_recipes
from binderclip.train.vocabulary import SPECIAL, learn_vocabulary

GOOD: dict[str, Any] = {
    "model": {"preset": "nano"},
    "data": {"pairs": "scenes:32?size=16"},
    "objective": {"name": "contrastive", "smoothing": 0.1},
    "optimizer": {"lr": 1e-3},
    "schedule": {"steps": 10, "warmup": 2},
}


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_is_one_and_comes_back_the_same(name: str, tmp_path: Path) -> None:
    recipe = read_recipe(name)
    assert find_recipe(name).read_text().startswith("# "), "the head of the file says what it is"
    assert f"binderclip train {name}" in find_recipe(name).read_text(), "and how to run it"
    path = tmp_path / "again.yaml"
    path.write_text(dump_yaml(recipe.to_dict()))
    assert read_recipe(path).to_dict() == {**recipe.to_dict(), "name": recipe.name}
    assert recipe.plan().steps > 0


def test_numbers_may_be_written_as_1e_3(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("a: 1e-3\nb: [2E5, x1e3]\nc: {d: .5e1}\n")
    assert read_yaml(path) == {"a": 1e-3, "b": [2e5, "x1e3"], "c": {"d": 5.0}}


def test_overrides_reach_sections_lists_and_kinds() -> None:
    recipe = Recipe.from_dict(GOOD, "r")
    changed = recipe.with_(["optimizer.lr=3e-4", "phases.0.steps=7", "data.augment=none", "validate.every=5", "seed=3"])
    assert changed.optimizer["lr"] == 3e-4
    assert (changed.phases[0].steps, changed.phases[0].warmup) == (7, 2)
    assert (changed.data["augment"], changed.validate, changed.seed) == ("none", {"every": 5}, 3)
    assert recipe.optimizer["lr"] == 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimiser": {}}, "recipe has no 'optimiser'; did you mean 'optimizer'"),
        ({"optimizer": {"learning_rate": 1}}, "optimizer has no 'learning_rate'"),
        ({"objective": {"name": "contrastive", "smooting": 1}}, "did you mean 'smoothing'"),
        ({"objective": {}}, "the recipe has no 'objective'"),
        ({"objective": {"smoothing": 1}}, "objective has no name"),
        ({"data": {"pair": "x"}}, "did you mean 'pairs'"),
        ({"data": "x"}, "data must be a mapping"),
        ({"schedule": {"step": 3}}, "did you mean 'steps'"),
        ({"schedule": {"steps": "many"}}, "steps of a phase|phase 0"),
        ({"data": {"pairs": "x", "limit": 3}}, "data has no 'limit'"),
        ({"retained": {"pairs": "x", "every": 3}}, "retained has no 'every'"),
        ({"precision": "fp8"}, "use fp32 or bf16"),
    ],
)
def test_a_wrong_recipe_is_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Recipe.from_dict({**GOOD, **change})
    assert "\n" not in str(caught.value)


def test_wrong_names_and_files(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean contrastive-nano"):
        read_recipe("contrastive-nan")
    with pytest.raises(UnknownNameError, match="no method"):
        Recipe.from_dict({**GOOD, "objective": {"name": "contrastiv"}})
    (tmp_path / "r.yaml").write_text("{a: [")
    with pytest.raises(InputError, match="is not YAML"):
        read_recipe(tmp_path / "r.yaml")
    with pytest.raises(InputError, match="write key=value"):
        Recipe.from_dict(GOOD).with_(["seed"])


def test_a_model_is_a_preset_with_changes_over_it() -> None:
    pairs = Pairs.open("scenes:64?size=16")
    spec = {"preset": "nano", "towers": {"image": {"width": 32, "layers": 1}}, "tokenizer": {"learn": 400}}
    clip = build_model(spec, pairs)
    assert clip.tower("image").get_parameter("positions").shape == (17, 32)
    assert clip.tokenizer is not None
    assert clip.tokenizer.vocab_size <= 400
    assert clip.config["tokenizer"]["kind"] == "hf"
    with pytest.raises(UnknownNameError, match="no preset 'nanoo'"):
        build_model({"preset": "nanoo"}, pairs)


def test_a_vocabulary_knows_its_texts_and_any_other() -> None:
    texts = ["a red circle", "a blue square", "two red circles"]
    tokenizer = learn_vocabulary(texts, 300, context_length=16)
    again = learn_vocabulary(reversed(texts), 300, context_length=16)
    ids, eos = tokenizer(["a red circle", "ünï 漢"])
    assert (again(["a red circle", "ünï 漢"])[0] == ids).all()
    assert (ids[:, 0] == SPECIAL.index("[START]")).all()
    assert [int(row[end]) for row, end in zip(ids, eos, strict=True)] == [SPECIAL.index("[END]")] * 2
    assert len(tokenizer.encode("a red circle")) < len("a red circle") / 2
    with pytest.raises(InputError, match="does not hold 4 special tokens and 256 bytes"):
        learn_vocabulary(texts, 100)


def test_data_that_nothing_can_be_learnt_from(tmp_path: Path) -> None:
    from PIL import Image

    def recipe(**data: Any) -> Recipe:
        return Recipe.from_dict({**GOOD, "data": {"pairs": str(tmp_path / "d"), **data}})

    with pytest.raises(InputError, match="has no 'pairs'"):
        open_data({})
    (tmp_path / "d" / "only").mkdir(parents=True)
    with pytest.raises(InputError, match=r"no pictures|empty|nothing"):
        assemble(recipe())
    Image.new("RGB", (20, 20), "red").save(tmp_path / "d" / "only" / "a.png")
    Image.new("RGB", (20, 20), "red").save(tmp_path / "d" / "only" / "b.png")
    with pytest.raises(InputError, match=r"caption|labels"):
        assemble(recipe())
    with pytest.raises(InputError, match=r"classes need at least two|one class"):
        assemble(recipe(labels="folder-names"))
    with pytest.raises(InputError, match="use 'folder-names' or 'captions'"):
        assemble(recipe(labels="names"))


def test_captions_missing_for_half_of_the_rows_are_told(tmp_path: Path) -> None:
    from PIL import Image

    for i in range(4):
        Image.new("RGB", (20, 20), (60 * i, 0, 0)).save(tmp_path / f"{i}.png")
        if i % 2:
            (tmp_path / f"{i}.txt").write_text(f"number {i}")
    job = assemble(Recipe.from_dict({**GOOD, "data": {"pairs": str(tmp_path)}}))
    assert job.notes == ["2 of 4 rows (50 %): no caption"]
