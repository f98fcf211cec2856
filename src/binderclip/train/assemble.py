"""From a recipe to what the loop runs on: the model, the pairs, the objective, what is held out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from binderclip.data.mapped import captions_from_labels
from binderclip.data.pairs import Pairs
from binderclip.data.report import survey
from binderclip.errors import InputError, NeedsPartError, UnknownNameError
from binderclip.hub import load
from binderclip.model.build import build
from binderclip.model.clip import CLIP
from binderclip.train.base import Objective
from binderclip.train.recipe import Recipe, objective_class, read_yaml
from binderclip.train.validation import Validation
from binderclip.train.vocabulary import learn_vocabulary

__all__ = ["Job", "assemble", "build_model", "open_data"]

_OPEN = ("kind", "split", "columns", "root", "weights")
_SURVEY = 2_000  # rows that are looked at before anything is trained on them


@dataclass
class Job:
    """All that the loop needs.

    Args:
        recipe: as it is run.
        clip: to be trained.
        objective: not set up yet.
        pairs: to train on.
        validation: held-out rows, or None.
        retained: rows on which zero-shot skill is watched, or None.
        notes: lines to tell the user before the first step.
    """

    recipe: Recipe
    clip: CLIP
    objective: Objective
    pairs: Pairs
    validation: Validation | None = None
    retained: Validation | None = None
    notes: list[str] = field(default_factory=list)


def assemble(recipe: Recipe, start: Path | None = None, pairs: Pairs | None = None) -> Job:
    """Open everything that a recipe names.

    Args:
        recipe: checked.
        start: folder with the weights that a run began with, when it is taken up again.
        pairs: those of the recipe's data, where they are open already.

    Raises:
        InputError: no data, nothing to learn from, or a section that does not fit.
        NeedsPartError: the model has no text tower, tokenizer or preprocess.
    """
    pairs = open_data(recipe.data) if pairs is None else pairs
    notes = _notes(pairs, recipe)
    clip = load(start) if start is not None else build_model(recipe.model, pairs, seed=recipe.seed)
    if not {"image", "text"} <= set(clip.towers) or clip.tokenizer is None or clip.preprocess is None:
        raise NeedsPartError(
            f"{clip.name} cannot be trained on pairs: it needs image and text towers with their inputs"
        )
    arguments = dict(recipe.objective)
    objective: Objective = objective_class(str(arguments.pop("name")))(**arguments)
    return Job(
        recipe,
        clip,
        objective,
        pairs,
        _validation(recipe.validate, clip),
        _validation(recipe.retained, clip),
        notes,
    )


def open_data(section: Mapping[str, Any]) -> Pairs:
    """The pairs of a ``data`` or ``validate`` section.

    ``labels: captions`` makes captions of labels by ``templates``; ``labels: folder-names`` opens a folder of folders so.

    Raises:
        InputError: no ``pairs``, or they cannot be opened.
    """
    if not section.get("pairs"):
        raise InputError("data has no 'pairs': name a folder, a table or shards, as in `data.pairs=./photos`")
    options = {key: section[key] for key in _OPEN if key in section}
    labels = section.get("labels")
    if labels == "folder-names":
        options["kind"] = "classes"
    elif labels not in (None, "captions"):
        raise InputError(f"labels is {labels!r}: use 'folder-names' or 'captions'")
    pairs = Pairs.open(section["pairs"], **options)
    return captions_from_labels(pairs, section.get("templates")) if labels else pairs


def build_model(spec: str | Mapping[str, Any], pairs: Pairs, *, seed: int = 0) -> CLIP:
    """A model by name or path, or a new one.

    Args:
        spec: a name; or a config of ``binderclip.model.build``; or ``{preset: nano, ...}``, the rest laid over the preset.
            ``tokenizer: {learn: 500, context_length: 16}`` learns a vocabulary of that size from the pairs' captions.
        pairs: whose captions a vocabulary is learnt from.
        seed: of new weights.

    Raises:
        UnknownNameError: no such model or preset.
    """
    if isinstance(spec, str):
        return load(spec)
    config = dict(spec)
    preset = config.pop("preset", None)
    if preset is not None:
        config = _laid_over(_preset(str(preset)), config)
    learn = config.get("tokenizer", {})
    tokenizer = None
    if "learn" in learn:
        options = {key: value for key, value in learn.items() if key != "learn"}
        tokenizer = learn_vocabulary(_captions(pairs), int(learn["learn"]), **options)
        text = {**config["towers"]["text"], "vocab_size": tokenizer.vocab_size, "eos_id": tokenizer.end}
        text["context_length"] = tokenizer.context_length
        config["towers"] = {**config["towers"], "text": text}
        config["tokenizer"] = None
    torch.manual_seed(seed)
    clip = build(config)
    if tokenizer is not None:
        clip.tokenizer = tokenizer
        clip.config = {**config, "tokenizer": tokenizer.config}
    return clip


def model_presets() -> dict[str, Path]:
    """Name to file of the towers that a recipe may start from."""
    folder = Path(str(resources.files("binderclip").joinpath("train/recipes/models")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _preset(name: str) -> dict[str, Any]:
    known = model_presets()
    if name not in known:
        raise UnknownNameError(f"there is no preset {name!r}: use one of {', '.join(known)}, or a model's name")
    return read_yaml(known[name])


def _laid_over(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """``top`` over ``base``, mapping by mapping."""
    out = json.loads(json.dumps(base))
    for key, value in top.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), dict)
        out[key] = _laid_over(out[key], value) if both else value
    return dict(out)


def _captions(pairs: Pairs) -> list[str]:
    texts: list[str] = []
    for pair in pairs:
        texts += pair.captions
        if len(texts) >= 10 * _SURVEY:
            break
    if not texts:
        raise InputError(f"{pairs.name} has no captions to learn a vocabulary from: use `labels: captions`")
    return texts


def _notes(pairs: Pairs, recipe: Recipe) -> list[str]:
    """What the user should know of the data; refuses data that nothing can be learnt from."""
    found = survey(pairs, _SURVEY)
    if not found.rows:
        reason = found.bad.most_common(1)[0][0] if found.bad else "it is empty"
        raise InputError(f"no row of {pairs.name} can be used: {reason}")
    if "caption" in objective_class(str(recipe.objective["name"])).needs:
        if not found.captions:
            raise InputError(
                f"no row of {pairs.name} has a caption: put a .txt beside each picture, give a table with a caption "
                "column, or use `data.labels=folder-names`"
            )
        if recipe.data.get("labels") and len(found.labels) == 1:
            raise InputError(f"all labels of {pairs.name} are {next(iter(found.labels))!r}: classes need at least two")
    return found.lines()


def _validation(section: Mapping[str, Any], clip: CLIP) -> Validation | None:
    if not section:
        return None
    pairs = open_data(section)
    return Validation.of(pairs, clip, rows=section.get("rows", 1000), which=section.get("templates"))
