"""The small CLIP that benchmarks of the room `evaluate` measure: contrastive-nano on scenes of two objects, kept."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from benchmarks.train_clipa import Kept, changed
from binderclip.hub import load
from binderclip.model.clip import CLIP
from binderclip.train.assemble import Job, build_model
from binderclip.train.contrastive import Contrastive
from binderclip.train.loop import Run
from binderclip.train.machine import Machine
from binderclip.train.recipe import read_recipe

#: What it is trained on, and what it is measured on (`&split=test`, or held-out combinations).
SCENES = "size=32&objects=1-2&alike=0&textures=plain&sizes=medium,large"
TRAIN = f"scenes:8192?{SCENES}"
STEPS = 1600
HOW = "CLIP of contrastive-nano (model nano4, 1,600 steps of 64), trained on one- and two-object scenes of 32 pixels"


def scene_clip(seed: int = 0) -> CLIP:
    """The model; trained where it is not kept beside other temporary files yet."""
    torch.set_num_threads(1)
    place = Path(tempfile.gettempdir()) / "binderclip-benchmarks" / f"scene_clip_{seed}_{STEPS}"
    if not (place / "model").is_dir():
        recipe = changed(read_recipe("contrastive-nano"), "model.preset=nano4", f"phases.0.steps={STEPS}", seed=seed)
        pairs = Kept(TRAIN)
        run = Run(
            Job(recipe, build_model(recipe.model, pairs, seed=seed), Contrastive(), pairs),
            place,
            machine=Machine(cpu=True),
        )
        run.train()
    return load(place / "model").eval()


if __name__ == "__main__":
    scene_clip()
