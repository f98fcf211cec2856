"""A tiny CLIP, tiny batches and tiny runs for tests of the training room."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from binderclip.data.pairs import Pairs
from binderclip.data.transforms import Augment
from binderclip.model.build import build
from binderclip.model.clip import CLIP
from binderclip.train.assemble import Job
from binderclip.train.base import Objective, TrainBatch
from binderclip.train.loop import Run
from binderclip.train.machine import Machine
from binderclip.train.reading import Reader
from binderclip.train.recipe import Recipe
from binderclip.train.vocabulary import learn_vocabulary

SCENES = "scenes:64?size=16&objects=1-2"
SIDE, PATCH, WIDTH, D = 16, 4, 16, 8
_TEXTS = [caption for pair in Pairs.open(SCENES) for caption in pair.captions]
TOKENIZER = learn_vocabulary(_TEXTS, 400, context_length=32)


def tiny_clip(seed: int = 0, **changes: Any) -> CLIP:
    """16 pixels in 16 patches, two blocks a tower, D = 8; ``changes`` go into the image tower's config."""
    torch.manual_seed(seed)
    text = {"vocab_size": TOKENIZER.vocab_size, "context_length": 32, "width": WIDTH, "layers": 2, "heads": 2}
    image = {"image_size": SIDE, "patch_size": PATCH, "width": WIDTH, "layers": 2, "heads": 2, **changes}
    config = {
        "name": "tiny",
        "embed_dim": D,
        "towers": {"image": {"kind": "vit", **image}, "text": {"kind": "text_transformer", "eos_id": 2, **text}},
        "preprocess": {"size": SIDE},
    }
    clip = build(config)
    clip.tokenizer, clip.config = TOKENIZER, {**config, "tokenizer": TOKENIZER.config}
    return clip.train()


def recipe(objective: str = "contrastive", **sections: Any) -> Recipe:
    """A recipe of 6 steps on 64 scenes."""
    arguments = sections.pop("arguments", {})
    base = {
        "model": "tiny",
        "data": {"pairs": SCENES, "batch_size": 8, "augment": "clip", "threads": 0},
        "objective": {"name": objective, **arguments},
        "optimizer": {"lr": 1e-2, "weight_decay": 0.1},
        "phases": [{"steps": 6, "warmup": 2}],
        "checkpoint": {"every": 100},
    }
    return Recipe.from_dict({**base, **sections}, "tiny")


def job(made: Recipe, objective: Objective, clip: CLIP | None = None) -> Job:
    """Of a recipe, with a tiny CLIP."""
    return Job(made, clip or tiny_clip(), objective, Pairs.open(made.data["pairs"]))


def run(folder: Path, objective: Objective, made: Recipe | None = None, **options: Any) -> Run:
    """A tiny run on the CPU."""
    return Run(
        job(made or recipe(), objective, options.pop("clip", None)), folder, machine=Machine(cpu=True), **options
    )


def batch(objective: Objective, clip: CLIP, n: int = 8, augment: Augment | None = None, seed: int = 0) -> TrainBatch:
    """The first n rows as the objective reads them, in the CLIP's dtype."""
    assert clip.preprocess is not None
    assert clip.tokenizer is not None
    made = Reader(
        Pairs.open(SCENES),
        objective,
        clip.preprocess,
        clip.tokenizer,
        n,
        augment=augment or Augment(),
        threads=0,
        seed=seed,
    )
    got, _ = next(iter(made.batches()))
    dtype = clip.logit_scale.dtype
    fields = {k: v.to(dtype) if v.is_floating_point() else v for k, v in got.fields.items()}
    return replace(got, views=tuple(view.to(dtype) for view in got.views), fields=fields)


def gradients_of(*modules: torch.nn.Module) -> dict[str, Tensor]:
    """Name to gradient of all that has one."""
    return {
        f"{i}.{name}": parameter.grad.clone()
        for i, module in enumerate(modules)
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


@functools.cache
def vectors_folder() -> Path:
    """A teacher's kept vectors ``[64, D]`` of the scenes, two turns, made by formula; gone with the process."""
    folder = Path(tempfile.mkdtemp(prefix="binderclip-teacher-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    rows = [pair.id for pair in Pairs.open(SCENES)]
    for turn in range(2):
        vectors = np.sin(np.arange(len(rows) * D).reshape(len(rows), D) * (1.3 + turn))
        np.save(folder / f"turn-{turn}-part-00000.npy", vectors.astype(np.float16))
    facts = {"fingerprint": "formula", "transforms": {}, "cycle": 2, "ids": rows}
    (folder / "teacher.json").write_text(json.dumps(facts))
    return folder
