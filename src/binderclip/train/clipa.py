"""CLIPA: an inverse scaling law for CLIP training (Li et al. 2023, arXiv 2305.07017).

Most of the training is done on few image and text tokens, the rest briefly on all of them. What is few, and how tokens
are left out, is said by the recipe's phases (``image_size`` is the paper's *resize*, ``image_keep`` and ``image_how`` its
three masks, ``text_length`` and ``text_how`` its four ways to shorten a text); the objective is CLIP's. The finding: the
larger the towers, the fewer tokens they need. `TokenReductionStudy` measures that on data at hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from binderclip.cards import Card
from binderclip.errors import InputError
from binderclip.train.assemble import assemble
from binderclip.train.contrastive import Contrastive
from binderclip.train.loop import Run
from binderclip.train.recipe import Recipe

__all__ = ["CLIPA", "Cell", "Report", "TokenReductionStudy"]

CARD = Card(
    slug="clipa",
    name="CLIPA",
    title="An Inverse Scaling Law for CLIP Training",
    arxiv="2305.07017",
    year=2023,
    room="train",
    provides="CLIPA",
    kind="Objective",
    claim="better at equal compute",
    must_show={
        "each way leaves the tokens asked for; grid one a window, block a rectangle, random at 1 the identity": (
            "tests/train/test_clipa.py::test_each_way_leaves_the_tokens_asked_for"
        ),
        "syntax with 4 words keeps the sentence's order and every noun": (
            "tests/train/test_clipa.py::test_syntax_keeps_the_nouns_in_their_order"
        ),
        "sin-cos positions: 32 px after 16 px needs no new parameter": (
            "tests/train/test_clipa.py::test_another_size_needs_no_new_parameter"
        ),
        "block multiply-adds are 12 S w^2 + 2 S^2 w; shares of 16 against 64 tokens": (
            "tests/train/test_clipa.py::test_block_arithmetic"
        ),
        "at equal flops two phases are at least as good as full length from scratch": "bench:train_clipa",
        "resize is at least as good as a random mask at 25 % of the tokens": "bench:train_clipa",
        "the drop from 64 to 16 tokens is smaller at width 96 than at width 32": "bench:train_clipa",
    },
)

IMAGE_HOWS = ("resize", "random", "grid", "block")
TEXT_HOWS = ("syntax", "truncate", "random", "block")


class CLIPA(Contrastive):
    """InfoNCE over the global batch, ``L = (CE(s I T', diag) + CE(s T I', diag)) / 2``; s is learnt and not clamped.

    Args:
        smoothing: of the labels; the paper has none.
        chunk: rows of logits held at a time; None holds all.
    """

    clamp = None


@dataclass(frozen=True)
class Cell:
    """One run of a study: how tokens are left out, how many stay, how wide the towers are."""

    how: str
    tokens: int
    width: int


@dataclass(frozen=True)
class Report:
    """What a study measured.

    Args:
        scores: cell -> accuracy (or whatever was asked for) of the model after the tuning on all tokens.
    """

    scores: Mapping[Cell, float]

    def drops(self) -> dict[tuple[str, int], float]:
        """(how, width) -> what is lost from the most tokens to the fewest; inverse scaling: smaller for wider towers."""
        return {key: line[max(line)] - line[min(line)] for key, line in self._lines().items()}

    def slopes(self) -> dict[tuple[str, int], float]:
        """(how, width) -> what a doubling of the tokens brings, by least squares over log2(tokens)."""
        found = {}
        for key, line in self._lines().items():
            x = [math.log2(tokens) for tokens in line]
            mean_x, mean_y = sum(x) / len(x), sum(line.values()) / len(line)
            spread = sum((a - mean_x) ** 2 for a in x)
            found[key] = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, line.values(), strict=True)) / spread
        return found

    def table(self) -> str:
        """Score by tokens, a line a way and width, with the slope at its end."""
        lines, slopes = self._lines(), self.slopes()
        tokens = sorted({cell.tokens for cell in self.scores}, reverse=True)
        rows = [("how", "width", *map(str, tokens), "slope")]
        for (how, width), line in lines.items():
            cells = (f"{line[t]:.3f}" if t in line else "-" for t in tokens)
            rows.append((how, str(width), *cells, f"{slopes[how, width]:+.3f}"))
        return "\n".join("  ".join(cell.rjust(8) for cell in row) for row in rows)

    def _lines(self) -> dict[tuple[str, int], dict[int, float]]:
        lines: dict[tuple[str, int], dict[int, float]] = {}
        for cell, score in self.scores.items():
            lines.setdefault((cell.how, cell.width), {})[cell.tokens] = score
        return lines


class TokenReductionStudy:
    """Train towers of several widths on several numbers of tokens, left out in several ways.

    Args:
        hows: of ``side="image"``: resize, random, grid, block; of ``side="text"``: syntax, truncate, random, block.
        lengths: tokens of the phase, two or more numbers.
        widths: of both towers.
        side: which tower's tokens are left out.
        image_size: of the full picture, in pixels.
        patch_size: of the image tower.
        number: of the phase that is changed, from 0; 1 studies masks while tuning (CLIPA-v2).

    Raises:
        InputError: an unknown way, fewer than two lengths, or a length that no size or share gives.
    """

    def __init__(
        self,
        hows: tuple[str, ...] = ("resize", "random"),
        lengths: tuple[int, ...] = (64, 16),
        widths: tuple[int, ...] = (32, 64, 96),
        *,
        side: str = "image",
        image_size: int = 32,
        patch_size: int = 4,
        number: int = 0,
    ) -> None:
        known = {"image": IMAGE_HOWS, "text": TEXT_HOWS}.get(side, ())
        if not hows or not widths or not set(hows) <= set(known):
            raise InputError(
                f"side {side!r}, hows {', '.join(hows)}: use image with {IMAGE_HOWS} or text with {TEXT_HOWS}"
            )
        if len(set(lengths)) < 2:
            raise InputError(f"a study compares two lengths or more, not {list(lengths)}")
        self.hows, self.lengths, self.widths, self.side = hows, lengths, widths, side
        self.image_size, self.patch_size, self.number = image_size, patch_size, number
        for how, tokens in product(hows, lengths):
            self.phase(how, tokens)

    def phase(self, how: str, tokens: int) -> dict[str, Any]:
        """What a phase says to keep so many tokens.

        Raises:
            InputError: no size or share gives that number.
        """
        if self.side == "text":
            return {"text_length": tokens, "text_how": how}
        full = (self.image_size // self.patch_size) ** 2
        if how == "resize":
            side = math.isqrt(tokens)
            if side * side != tokens:
                raise InputError(f"resized pictures have a square number of patches, not {tokens}: use {side * side}")
            return {"image_size": side * self.patch_size}
        if tokens > full:
            raise InputError(f"{tokens} tokens are more than the {full} of {self.image_size} pixels")
        # All patches are no mask: a grid of 1 in 4 is not asked for them.
        return {"image_keep": tokens / full, "image_how": "random" if tokens == full else how}

    def recipe(self, base: Recipe, cell: Cell) -> Recipe:
        """The recipe of one run: one phase of the base on few tokens, towers of the width.

        Raises:
            InputError: the base names a model to load, whose towers have a width already.
        """
        raw = base.to_dict()
        if not isinstance(raw["model"], Mapping):
            raise InputError(f"model {raw['model']!r} has its width: give a config or a preset for a study")
        towers = {
            side: {**raw["model"].get("towers", {}).get(side, {}), "width": cell.width} for side in ("image", "text")
        }
        raw["model"] = {**raw["model"], "towers": towers}
        raw["phases"][self.number] |= self.phase(cell.how, cell.tokens)
        return Recipe.from_dict({**raw, "name": f"{cell.how}-{cell.tokens}-{cell.width}"})

    def __call__(
        self,
        base: Recipe,
        folder: Path,
        *,
        metric: str = "text_to_image",
        train: Callable[[Recipe, Path], Mapping[str, Any]] | None = None,
    ) -> Report:
        """Run every cell.

        Args:
            base: two phases, few tokens and then all, and a ``validate`` section. The model is built anew for each cell.
            folder: holds the runs; one that was stopped is gone on with.
            metric: of the last validation.
            train: a recipe and a folder to the last validation; a `Run` by default.
        """
        fit = train or run_to_the_end
        scores = {}
        for cell in (Cell(*key) for key in product(self.hows, self.lengths, self.widths)):
            made = self.recipe(base, cell)
            scores[cell] = float(fit(made, folder / made.name)[metric])
        return Report(scores)


def run_to_the_end(recipe: Recipe, folder: Path) -> Mapping[str, Any]:
    """Train, and give the last validation's record.

    Raises:
        InputError: the recipe validates nothing.
    """
    measured: list[Mapping[str, Any]] = []
    start = folder / "start"
    run = Run(assemble(recipe, start if start.is_dir() else None), folder, listener=measured.append)
    run.train()
    found = [record for record in measured if record["event"] == "validation"]
    if not found:
        raise InputError("this recipe measures nothing: name held-out pairs in `validate`")
    return found[-1]
