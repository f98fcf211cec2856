"""Scaling (Down) CLIP: data, architecture and training strategies for a budget (Li et al. 2024, arXiv 2404.08197).

The study repeats the paper's analysis on one's own pairs, small: a grid of runs over subset size, quality cut, tower width,
tower family, strategy and epochs, and the tables that decide. Strategies are objectives: contrastive, slip, flip, clip_aug.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from binderclip.cards import Card
from binderclip.data.files import write_whole
from binderclip.data.pairs import Pairs
from binderclip.data.transforms import Augment
from binderclip.errors import InputError
from binderclip.hub import load
from binderclip.model.clip import CLIP
from binderclip.train.assemble import Job, build_model, model_presets, open_data
from binderclip.train.base import Objective
from binderclip.train.loop import Run
from binderclip.train.machine import Machine
from binderclip.train.parts.subsets import Held, quality_of, subset
from binderclip.train.reading import batch_of
from binderclip.train.recipe import Recipe, objective_class, read_yaml
from binderclip.train.scaling_report import PowerLaw, ScalingReport, power_fit
from binderclip.train.validation import Validation

__all__ = ["Cell", "PowerLaw", "ScalingReport", "ScalingStudy", "power_fit", "quality_of", "subset", "tower_flops"]

CARD = Card(
    slug="scaling_down",
    name="Scaling (Down) CLIP",
    title="Scaling (Down) CLIP: A Comprehensive Analysis of Data, Architecture, and Training Strategies",
    arxiv="2404.08197",
    year=2024,
    room="train",
    provides="ScalingStudy",
    kind="Study",
    files=(
        "train/slip.py",
        "train/flip.py",
        "train/clip_aug.py",
        "train/scaling_report.py",
        "train/parts/subsets.py",
    ),
    must_show={
        "FLIP: keep 1 is CLIP to the bit; 0.5 gives S/2 + 1 tokens, other masks an image": (
            "tests/train/test_scaling_down.py::test_flip"
        ),
        "SLIP of weight 0 is CLIP on view 0": "tests/train/test_scaling_down.py::test_slip_of_weight_0_is_clip",
        "NT-Xent is a loop; the diagonal has no probability": "tests/train/test_scaling_down.py::test_nt_xent_is_a_loop",
        "flops: SLIP 3x; FLIP(0.5) 0.44, 0.47, 0.48x on nano4, 0.49x for B/16": (
            "tests/train/test_scaling_down.py::test_flops"
        ),
        "fit: exponent and ln 2 to 1e-6; within 0.04 under 2 % noise": "tests/train/test_scaling_down.py::test_power_fit",
        "40 % of captions shuffled: the teacher's top 60 % beats all by 3 points (target)": "bench:train_scaling_down",
        "1k images: CLIPAug not under CLIP (target)": (
            "missed:train_scaling_down: 11.0 % against 13.1 % of kinds, 10.1 against 11.7 of shapes; 300 steps are short"
        ),
        "a killed study repeats no finished cell": "tests/train/test_scaling_down.py::test_a_killed_study_goes_on",
    },
)

METRICS = {"zeroshot": ("accuracy",), "retrieval": ("image_to_text", "text_to_image")}
FAMILIES = ("vit", "conv")
DEFAULT_GRID: Mapping[str, Sequence[Any]] = {"rows": (1000, 2000, 4000, 8000), "width": (32, 64, 96)}
Train = Callable[[Recipe, Pairs, Path], Mapping[str, float]]


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Args:
        rows: of the subset; subsets are nested.
        quality: share of them that is kept, the best by score.
        width: of both towers.
        family: of the image tower: vit or conv (a small ConvNeXt).
        objective: slug of the strategy.
        epochs: passes over what is kept; None takes the recipe's steps, so that all cells see as many samples.
        seed: of weights, order and views.
    """

    rows: int
    quality: float = 1.0
    width: int = 64
    family: str = "vit"
    objective: str = "contrastive"
    epochs: float | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        """Of its file."""
        passes = "" if self.epochs is None else f"-{self.epochs:g}epochs"
        return f"{self.objective}-{self.family}{self.width}-{self.rows}rows-{self.quality:g}{passes}-seed{self.seed}"


class ScalingStudy:
    """Run a grid of cells, each once, and tell what follows.

    Args:
        grid: axis of `Cell` -> values; by default 4 sizes times 3 widths.
        metric: "zeroshot" (needs labels in ``validate``) or "retrieval" (recall at 1, mean of both directions).
        budget: "samples": every cell takes the recipe's steps; "flops": steps are scaled so that each cell's towers do as
            many operations as the first cell's. Epochs go before both.
        seeds: runs a cell.
        arguments: slug -> arguments of that objective; SLIP's head is as wide as small towers allow.

    Raises:
        InputError: an axis, metric, budget or family that there is not.
    """

    def __init__(
        self,
        grid: Mapping[str, Sequence[Any]] = DEFAULT_GRID,
        metric: str = "zeroshot",
        budget: str = "samples",
        seeds: int = 1,
        *,
        arguments: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        axes = [name for name in Cell.__dataclass_fields__ if name != "seed"]
        odd = [name for name in grid if name not in axes]
        if odd or not grid.get("rows") or not set(grid.get("family", ())) <= set(FAMILIES):
            raise InputError(f"a grid has 'rows' and may have {', '.join(axes[1:])}; family is vit or conv; not {odd}")
        if metric not in METRICS or budget not in ("samples", "flops") or seeds < 1:
            raise InputError(
                f"metric {metric!r}, budget {budget!r}, {seeds} seeds: use zeroshot or retrieval, samples or flops"
            )
        self.metric, self.budget = metric, budget
        self.arguments = {"slip": {"hidden": 256, "out": 64}, **(arguments or {})}
        self.cells = [
            replace(Cell(**dict(zip(grid, values, strict=True))), seed=seed)
            for values in product(*grid.values())
            for seed in range(seeds)
        ]

    def recipe(self, base: Recipe, cell: Cell) -> Recipe:
        """The recipe of a cell, before its budget is counted.

        Raises:
            InputError: the base names a model to load, whose towers have a width already.
        """
        if not isinstance(base.model, Mapping):
            raise InputError(f"model {base.model!r} has its width: give a config or a preset for a study")
        raw, config = base.to_dict(), dict(base.model)
        if "preset" in config:
            preset = read_yaml(model_presets()[config.pop("preset")])
            config = {**preset, **config, "towers": {**preset["towers"], **config.get("towers", {})}}
        image, text = (dict(config["towers"][side]) | {"width": cell.width} for side in ("image", "text"))
        if cell.family == "conv":
            widths = [cell.width, 2 * cell.width]  # two stages: pixels by 8, as patches of 8
            image = {"kind": "convnext", "depths": [2, 2], "widths": widths, "layer_scale": None}
        raw["model"] = {**config, "towers": {"image": image, "text": text}}
        raw["objective"] = {"name": cell.objective, **self.arguments.get(cell.objective, {})}
        raw |= {"seed": cell.seed, "name": cell.name}
        return Recipe.from_dict(raw)

    def __call__(
        self,
        base: Recipe,
        folder: Path,
        *,
        pairs: Pairs | None = None,
        quality: Mapping[str, float] | None = None,
        train: Train | None = None,
    ) -> ScalingReport:
        """Run what is not done yet.

        Args:
            base: data, optimiser, one phase, a ``validate`` section of held-out rows, and perhaps shifted variants of
                them under ``retained``. What is chosen on rows is not judged on them: hold further ones back for that.
            folder: ``cells/NAME.json`` of each finished cell; a cell that was stopped goes on from its checkpoint.
            pairs: in place of those that the recipe names.
            quality: id -> score, for cells with a quality cut; see `quality_of`.
            train: a recipe, its rows and a folder to the last validation; a `Run` on the CPU or one GPU by default.

        Raises:
            InputError: cells of another study in the folder, or a cut without scores.
        """
        source = Held(open_data(base.data) if pairs is None else pairs)
        fit = train or _Trainer(base, source)
        rows, first = [], 0
        (folder / "cells").mkdir(parents=True, exist_ok=True)
        for cell in self.cells:
            recipe, used = self.recipe(base, cell), subset(source, cell.rows, cell.quality, quality)
            image, text = tower_flops(*_untrained(recipe, source))
            first = first or image + text
            recipe = self._budgeted(recipe, cell, len(used), first / (image + text))
            path = folder / "cells" / f"{cell.name}.json"
            asked = json.loads(json.dumps(recipe.to_dict()))
            if path.is_file():
                kept = json.loads(path.read_text(encoding="utf-8"))
                if kept["recipe"] != asked:
                    raise InputError(f"{path} is of another study: choose another folder")
            else:
                numbers = dict(fit(recipe, used, folder / "runs" / cell.name))
                value = sum(numbers[key] for key in METRICS[self.metric]) / len(METRICS[self.metric])
                samples = recipe.phases[0].steps * recipe.data["batch_size"]
                facts = {"kept": len(used), "samples": samples, "gflops": (image + text) * samples / 1e9}
                kept = {"row": asdict(cell) | facts | numbers | {"value": value}, "recipe": asked}
                write_whole(path, json.dumps(kept, indent=1).encode())
                shutil.rmtree(folder / "runs" / cell.name, ignore_errors=True)
            rows.append(kept["row"])
        return ScalingReport(tuple(rows), self.metric)

    def _budgeted(self, recipe: Recipe, cell: Cell, kept: int, share: float) -> Recipe:
        phase, batch = recipe.phases[0], recipe.data["batch_size"]
        if phase.steps is None or len(recipe.phases) != 1:
            raise InputError("a study's recipe has one phase, which states its steps")
        steps = phase.steps
        if cell.epochs is not None:
            steps = math.ceil(kept * cell.epochs / batch)
        elif self.budget == "flops":
            steps = max(round(steps * share), 1)
        return replace(recipe, phases=(replace(phase, steps=steps, warmup=min(phase.warmup, steps // 2)),))


class _Trainer:
    """Runs cells, with what they are measured on decoded once: held-out rows, and shifted ones under ``retained``."""

    def __init__(self, base: Recipe, pairs: Pairs) -> None:
        self.base, self.pairs = base, pairs
        self.held: dict[str, Validation] = {}

    def __call__(self, recipe: Recipe, rows: Pairs, folder: Path) -> Mapping[str, float]:
        if not self.base.validate:
            raise InputError("a study needs held-out pairs: name them in `validate`")
        start = folder / "start"
        clip, objective = _untrained(recipe, self.pairs)
        if start.is_dir():
            clip = load(start)
        if not self.held:
            for prefix, section in (("", self.base.validate), ("shifted_", self.base.retained)):
                if section:
                    rest = {"rows": section.get("rows", 1000), "which": section.get("templates")}
                    self.held[prefix] = Validation.of(open_data(section), clip, **rest)
        plain = replace(recipe, validate={}, retained={})
        result = Run(Job(plain, clip, objective, rows), folder, machine=Machine(recipe.precision)).train()
        assert result is not None
        found = {prefix: held.measure(result) for prefix, held in self.held.items()}
        return {f"{prefix}{name}": value for prefix, numbers in found.items() for name, value in numbers.items()}


def _untrained(recipe: Recipe, pairs: Pairs) -> tuple[CLIP, Objective]:
    arguments = dict(recipe.objective)
    objective: Objective = objective_class(str(arguments.pop("name")))(**arguments)
    return build_model(recipe.model, pairs, seed=recipe.seed), objective


def tower_flops(clip: CLIP, objective: Objective) -> tuple[int, int]:
    """Operations of the towers forward for one pair: (image, text); heads are not counted, a multiply and an add are two.

    Counted with the plain attention kernel, since the fused one is not counted on a CPU.
    """
    assert clip.preprocess is not None
    assert clip.tokenizer is not None
    size, views = clip.preprocess.size, len(objective.views(Augment()))
    blank = torch.zeros(1, 3, size, size, device=clip.device)
    batch = batch_of((blank,) * views, [("a",)], clip.tokenizer).to(clip.device)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as both:
            objective.train().encode(clip, batch)
        with FlopCounterMode(display=False) as text:
            clip.encode_text((batch.ids[0], batch.eos[0]))
    return both.get_total_flops() - text.get_total_flops(), text.get_total_flops()
