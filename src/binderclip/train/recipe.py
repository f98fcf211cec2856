"""Recipes: YAML files of flat keyword arguments that name a model, data, an objective, an optimiser and phases.

    # Plain CLIP on generated scenes: about 2 minutes on 2 cores.
    #   binderclip train nano-clip optimizer.lr=5e-4
    model: {preset: nano}
    data: {pairs: "scenes:8192?size=32", batch_size: 64}
    objective: {name: contrastive}
    optimizer: {lr: 1e-3, weight_decay: 0.1}
    phases: [{steps: 800, warmup: 50}]

Every section is checked against the signature of what it is given to, before anything is loaded. Nothing in a recipe is
executed; numbers may be written as 1e-3.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

from binderclip.cards import find, load_method
from binderclip.errors import InputError, NeedsExtraError, UnknownNameError
from binderclip.train.phases import Phase, Plan, plan

__all__ = ["Recipe", "find_recipe", "read_recipe", "shipped_recipes"]

#: Keys of sections that are read here or in assemble.py, beside those of the section's constructor.
DATA = ("pairs", "kind", "split", "columns", "root", "weights", "batch_size", "augment", "caption", "cycle", "threads")
DATA_MORE = ("labels", "templates")
RETAINED = ("pairs", "kind", "split", "columns", "root", "rows", "templates", "labels")
VALIDATE = (*RETAINED, "every", "patience", "metric")
AVERAGE = ("ema", "start")
CHECKPOINT = ("every", "keep")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


@dataclass(frozen=True)
class Recipe:
    """What to train, on what, how.

    Args:
        model: a name, a path, or a mapping: ``{preset: nano, ...}`` or a whole config; see ``assemble``.
        data: of ``Pairs.open`` and ``Reader``.
        objective: ``name`` of its Card and its arguments.
        optimizer: of ``make_optimizer``.
        phases: at least one; ``schedule`` may stand for a list of one.
        freeze: patterns of parameters that are not trained, then those of `unfreeze` are.
        unfreeze: see `freeze`.
        average: ``ema``: momentum of an average of the weights, exported in place of the last ones; ``start``: share of
            the weights before training that is mixed in at the end (WiSE-FT).
        validate: held-out pairs, ``every`` how many steps, ``metric`` to keep the best by, ``patience`` in validations.
        retained: labelled pairs on which zero-shot accuracy is told before and after.
        checkpoint: ``every`` how many steps, ``keep`` how many.
        clip_norm: largest norm of the gradient; None leaves it.
        micro_batch: rows that are held in memory with their graph; None holds the batch.
        precision: fp32 or bf16.
        seed: of everything that is drawn.
        trackers: of accelerate: tensorboard, wandb, ...
        name: of the recipe, for people.
    """

    model: str | Mapping[str, Any]
    data: Mapping[str, Any]
    objective: Mapping[str, Any]
    phases: tuple[Phase, ...]
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    freeze: tuple[str, ...] = ()
    unfreeze: tuple[str, ...] = ()
    average: Mapping[str, Any] = field(default_factory=dict)
    validate: Mapping[str, Any] = field(default_factory=dict)
    retained: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Mapping[str, Any] = field(default_factory=dict)
    clip_norm: float | None = None
    micro_batch: int | None = None
    precision: str = "fp32"
    seed: int = 0
    trackers: tuple[str, ...] = ()
    name: str = ""

    def plan(self) -> Plan:
        """The phases laid one behind the other, with the recipe's batch size and learning rate where they state none."""
        return plan(self.phases, batch_size=self.data.get("batch_size", 64), lr=self.optimizer.get("lr"))

    def to_dict(self) -> dict[str, Any]:
        """As plain values, which `from_dict` takes; what is at its default is left out."""
        plain = {part.name: getattr(self, part.name) for part in fields(self)}
        plain["phases"] = [
            {
                part.name: getattr(phase, part.name)
                for part in fields(Phase)
                if getattr(phase, part.name) != part.default
            }
            for phase in self.phases
        ]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items() if v not in ((), {}, None, "")}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], name: str = "") -> Recipe:
        """Checked.

        Raises:
            InputError: a key that there is not, or one that is missing; it offers the nearest.
            UnknownNameError: no objective of that name.
        """
        given = dict(raw)
        if "schedule" in given:
            if "phases" in given:
                raise InputError("a recipe has 'schedule' or 'phases', not both")
            given["phases"] = [given.pop("schedule")]
        _only(given, [part.name for part in fields(cls)], "recipe")
        for key in ("model", "data", "objective", "phases"):
            if not given.get(key):
                raise InputError(f"the recipe has no {key!r}: `binderclip recipes show nano-clip` is an example")
        for key in ("data", "objective", "optimizer", "average", "validate", "retained", "checkpoint"):
            if not isinstance(given.get(key, {}), Mapping):
                raise InputError(f"{key} must be a mapping, as in `{key}: {{...}}`")
        _check_sections(given)
        given["phases"] = tuple(_phase(i, phase) for i, phase in enumerate(given["phases"]))
        for key in ("freeze", "unfreeze", "trackers"):
            value = given.get(key, ())
            given[key] = (value,) if isinstance(value, str) else tuple(value)
        if given.get("precision", "fp32") not in ("fp32", "bf16"):
            raise InputError(f"precision is {given['precision']!r}: use fp32 or bf16")
        return cls(**{**given, "name": str(given.get("name") or name)})

    def with_(self, overrides: Sequence[str]) -> Recipe:
        """With ``key=value`` applied: dots go into sections, numbers into lists (``phases.0.lr=1e-4``).

        Raises:
            InputError: not of that form, or a result that is no recipe.
        """
        raw = self.to_dict()
        for override in overrides:
            key, equals, text = override.partition("=")
            if not equals:
                raise InputError(f"{override!r} is no override: write key=value, as in optimizer.lr=3e-4")
            _put(raw, key.strip().split("."), _number(_yaml().safe_load(text)), key)
        return Recipe.from_dict(raw, self.name)


def objective_class(name: str) -> type[Any]:
    """The class of an objective by its slug.

    Raises:
        UnknownNameError: none of that name, or a method of another kind.
    """
    card = find(name)
    if card.kind != "Objective":
        raise UnknownNameError(f"{name!r} is a {card.kind} of room {card.room}, not an objective: see `methods list`")
    made: type[Any] = load_method(name)
    return made


def shipped_recipes() -> dict[str, Path]:
    """Name to file of the recipes in the package."""
    folder = Path(str(resources.files("binderclip").joinpath("train/recipes")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe: a path, or the name of a shipped one.

    Raises:
        UnknownNameError: neither.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return path
    shipped = shipped_recipes()
    if str(name) in shipped:
        return shipped[str(name)]
    close = difflib.get_close_matches(str(name), shipped, n=3)
    hint = f"did you mean {', '.join(close)}?" if close else "`binderclip recipes ls` shows all"
    raise UnknownNameError(f"there is no recipe {str(name)!r}; {hint}")


def read_recipe(name: str | Path) -> Recipe:
    """A recipe from a file or a shipped name.

    Raises:
        InputError: not YAML, or no recipe.
        UnknownNameError: no such file or name.
    """
    path = find_recipe(name)
    return Recipe.from_dict(read_yaml(path), path.stem)


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping from a YAML file; numbers may be written as 1e-3."""
    yaml = _yaml()
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path.name} is no recipe: it holds no keys")
    numbered: dict[str, Any] = _number(raw)
    return numbered


def dump_yaml(value: Mapping[str, Any]) -> str:
    """YAML that `read_yaml` reads."""
    text: str = _yaml().safe_dump(_plain(value), sort_keys=False, allow_unicode=True)
    return text


def _yaml() -> Any:
    try:
        import yaml
    except ImportError:
        raise NeedsExtraError("training recipes", "train") from None
    return yaml


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as a word; here it is a number."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    if isinstance(value, dict):
        return {str(k): _number(v) for k, v in value.items()}
    return [_number(v) for v in value] if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _put(raw: dict[str, Any], keys: list[str], value: Any, whole: str) -> None:
    here: Any = raw
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(here, list):
            if not key.isdigit() or int(key) >= len(here):
                raise InputError(f"{whole}: there are {len(here)} entries, counted from 0")
            if last:
                here[int(key)] = value
            here = here[int(key)]
        elif last:
            here[key] = value
        else:
            if not isinstance(here.get(key, {}), dict | list):
                here[key] = {}
            here[key] = dict(here[key]) if isinstance(here.get(key), dict) else here.get(key, {})
            here = here[key]


def _check_sections(given: Mapping[str, Any]) -> None:
    from binderclip.train.optim import make_optimizer

    _only(given["data"], [*DATA, *DATA_MORE], "data")
    _only(given.get("optimizer", {}), _arguments(make_optimizer), "optimizer")
    _only(given.get("average", {}), AVERAGE, "average")
    _only(given.get("validate", {}), VALIDATE, "validate")
    _only(given.get("retained", {}), RETAINED, "retained")
    _only(given.get("checkpoint", {}), CHECKPOINT, "checkpoint")
    objective = dict(given["objective"])
    name = objective.pop("name", None)
    if not name:
        raise InputError("objective has no name, as in `objective: {name: contrastive}`")
    _only(objective, _arguments(objective_class(str(name))), f"objective {name}")


def _phase(number: int, raw: Any) -> Phase:
    if not isinstance(raw, Mapping):
        raise InputError(f"phase {number} must be a mapping, as in `{{steps: 800, warmup: 50}}`")
    _only(raw, [part.name for part in fields(Phase)], f"phase {number}")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
    try:
        return Phase(**values)
    except TypeError:
        raise InputError(f"phase {number} has a value of the wrong kind: {dict(raw)}") from None


def _arguments(made: Callable[..., Any]) -> list[str]:
    skipped = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [
        name
        for name, p in inspect.signature(made).parameters.items()
        if p.kind not in skipped and name not in ("self", "modules")
    ]


def _only(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in given:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known)}"
            raise InputError(f"{where} has no {key!r}; {hint}")
