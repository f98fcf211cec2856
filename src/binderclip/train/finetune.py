"""Fine-tuning on a user's own pairs: what is trained, what is held out, what is kept, with defaults that do no harm.

The weights are moved with a small learning rate, the best held-out step is kept (the start among them), and it is averaged
with the start (WiSE-FT, Wortsman et al. 2022, arXiv 2109.01903), which keeps what the model knew of everything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from binderclip.data.report import survey
from binderclip.data.subset import split_pairs
from binderclip.errors import InputError
from binderclip.model.clip import CLIP
from binderclip.train.assemble import Job, assemble, open_data
from binderclip.train.optim import layer_factors
from binderclip.train.recipe import Recipe
from binderclip.train.validation import Validation

__all__ = ["GENERAL", "agreement", "finetune_job", "finetune_recipe"]

LEAST = 8  # rows, of which some are held out
#: Things that most collections do not hold: whether the best of these for a picture stays is how general skill is watched.
GENERAL = (
    "person face crowd hand dog cat horse cow sheep bird fish insect flower tree forest grass mountain beach sea river sky "
    "cloud snow desert road street bridge house building tower church room kitchen bed chair table lamp window door car bus "
    "truck train bicycle motorcycle boat airplane phone computer screen keyboard camera clock book newspaper map sign text "
    "painting drawing statue toy ball knife bottle cup plate food fruit vegetable bread cake meat drink shirt shoe hat bag "
    "glasses umbrella tool machine wheel engine box fire water stone metal wood glass map flag guitar piano"
).split()


def finetune_recipe(
    path: str,
    *,
    labels: str | None = None,
    model: str = "pocket",
    tune: str = "last",
    epochs: float = 10,
    lr: float = 3e-5,
    batch_size: int = 32,
    holdout: float = 0.2,
    start_share: float = 0.5,
    template: str | None = None,
    seed: int = 0,
    rows: int | None = None,
) -> Recipe:
    """The recipe of a fine-tuning run.

    Args:
        path: of the pairs.
        labels: ``folder-names``, a table of captions, or None where the pairs have their own.
        model: to begin with.
        tune: ``last``, the last third of the image tower's layers and all behind them; ``image``, the image tower; ``all``.
        epochs: passes over what is not held out.
        lr: learning rate.
        batch_size: rows a step.
        holdout: share of the rows by which it is judged.
        start_share: of the start in the weights that are exported.
        template: a sentence with {} for class names, or a named set.
        seed: of everything that is drawn.
        rows: that are trained on, when counted already.

    Raises:
        InputError: a value that makes no sense.
    """
    if tune not in ("last", "image", "all"):
        raise InputError(f"tune is {tune!r}: use 'last', 'image' or 'all'")
    if not 0 < holdout < 0.9:
        raise InputError(f"holdout is {holdout}: give a share from 0.05 to 0.5")
    steps = max(int(epochs * max((rows or batch_size) / batch_size, 1)), 1)
    data: dict[str, Any] = {"pairs": path, "augment": {"scale": [0.5, 1.0], "flip": 0.5}, "batch_size": batch_size}
    if labels == "folder-names":
        data["labels"] = "folder-names"
    elif labels is not None:
        data |= {"pairs": labels, "root": path}
    if template is not None:
        data["templates"] = template
    each = max(steps // max(round(epochs), 1), 1)
    return Recipe.from_dict(
        {
            "model": model,
            "data": data,
            "objective": {"name": "unicl"},
            "optimizer": {"lr": lr, "weight_decay": 0.05, "betas": [0.9, 0.98]},
            "phases": [{"steps": steps, "warmup": min(each, steps // 5 + 1), "final": 0.1}],
            "clip_norm": 1.0,
            "average": {"start": start_share},
            "validate": {
                "pairs": path,
                "every": each,
                "patience": 3,
                "metric": "class_loss" if labels == "folder-names" else "loss",
            },
            "checkpoint": {"every": max(each, 20)},
            "seed": seed,
        },
        "finetune",
    )


def finetune_job(
    path: str,
    *,
    tune: str = "last",
    holdout: float = 0.2,
    batch_size: int = 32,
    retained: str | None = None,
    start: Path | None = None,
    **options: Any,
) -> Job:
    """Open the data, hold out a share of it by the hash of its ids, write the recipe, and freeze what is not tuned.

    Args:
        path: of the pairs.
        tune: see `finetune_recipe`, which takes the other options.
        holdout: share of the rows by which it is judged.
        batch_size: rows a step, at most half of those learnt from.
        retained: class folders on which accuracy is watched.
        start: folder with the weights that a run began with, when it is taken up again.
        **options: of `finetune_recipe`.

    Raises:
        InputError: too few rows, or all of one class.
    """
    options |= {"tune": tune, "holdout": holdout}
    draft = finetune_recipe(path, **options)
    pairs = open_data(draft.data)
    rest, held = split_pairs(pairs, holdout, draft.seed)
    learnt, judged = survey(rest).captions, survey(held).captions
    if learnt + judged < LEAST or not judged or not learnt:
        raise InputError(
            f"{pairs.name} has {learnt + judged} rows with a text: fine-tuning needs at least {LEAST}, "
            "some of them held out"
        )
    recipe = finetune_recipe(path, **options, batch_size=max(min(batch_size, learnt // 2), 2), rows=learnt)
    job = assemble(replace(recipe, validate={}, retained={}), start, rest)
    job.recipe = replace(recipe, freeze=(*recipe.freeze, *frozen_patterns(job.clip, tune)))
    job.validation = Validation.of(held, job.clip, rows=2000, which=recipe.data.get("templates"))
    size = sum(parameter.numel() for parameter in job.clip.parameters()) / 1e6
    job.notes.append(
        f"{learnt} rows to learn from, {len(job.validation.images)} held out; {size:.1f} M parameters in all"
    )
    if retained is not None:
        job.retained = Validation.of(open_data({"pairs": retained, "labels": "folder-names"}), job.clip)
    return job


def frozen_patterns(clip: CLIP, tune: str) -> tuple[str, ...]:
    """Names of parameters that are not tuned: the text side unless all is, and of the image side all but its last third."""
    if tune == "all":
        return ()
    others = tuple(f"{name}.*" for name in clip.towers if name != "image")
    if tune == "image":
        return (*others, "logit_scale")
    depth = layer_factors(clip, 0.5)  # 0.5 to the power of the layers behind
    least = min(depth.values())
    early = tuple(
        name for name, share in depth.items() if name.startswith("image.") and share < least ** (1 / 3) - 1e-12
    )
    return (*others, "logit_scale", *early)


@torch.no_grad()
def agreement(before: CLIP, after: CLIP, held: Validation) -> dict[str, float]:
    """How much of what the model knew stays.

    Returns:
        ``same_word``: share of held-out pictures whose best of a hundred general words is still the same; ``cosine``: mean
        between their vectors before and after.
    """
    texts = [f"a photo of a {word}" for word in dict.fromkeys(GENERAL)]
    vectors: Mapping[str, tuple[torch.Tensor, torch.Tensor]] = {
        name: (held.encode_images(clip.eval()), clip.encode_text(texts)) for name, clip in (("a", before), ("b", after))
    }
    (image_a, text_a), (image_b, text_b) = vectors["a"], vectors["b"]
    same = (image_a @ text_a.T).argmax(-1) == (image_b @ text_b.T).argmax(-1)
    return {"same_word": float(same.float().mean()), "cosine": float((image_a * image_b).sum(-1).mean())}
