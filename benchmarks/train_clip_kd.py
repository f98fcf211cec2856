"""CLIP-KD on CIFAR-100 with `pocket` as teacher: task, task + FD and the unified loss, 3 seeds each.

Scores are zero-shot accuracy of the student's own towers on the rows kept aside; the teacher's vectors are made once.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.common import digest, record, shared_data
from benchmarks.train_clipa import SEEDS, Kept, spread
from binderclip.data.mapped import captions_from_labels
from binderclip.data.pairs import Pair, Pairs
from binderclip.model.clip import CLIP
from binderclip.train.assemble import Job, build_model
from binderclip.train.clip_kd import CLIPKD
from binderclip.train.loop import Run
from binderclip.train.machine import Machine
from binderclip.train.parts.frozen_teacher import FrozenTeacher, keep_vectors
from binderclip.train.recipe import Recipe, read_recipe
from binderclip.train.validation import Validation

SIZE, STEPS, BATCH = 96, 400, 128
WAYS: dict[str, dict[str, float]] = {
    "task": {"crd": 0.0, "icl": 0.0, "fd": 0.0},
    "task_fd": {"crd": 0.0, "icl": 0.0},
    "unified": {},
}


class Rows(Kept):
    """Rows of one split by the data's rule, in file order, with a caption of the class name."""

    def __init__(self, path: Path, *, test: bool) -> None:
        pairs = captions_from_labels(Pairs.open(path), ["a photo of a {}."])
        super(Kept, self).__init__(pairs.name)
        self._rows: list[Pair] = [row for row in pairs if (_number(row.id) % 5 == 0) is test]
        self.classes = pairs.classes
        if not self.classes:
            self.classes = tuple(sorted({str(row.label) for row in self._rows}))


def _number(row_id: str) -> int:
    return int(hashlib.sha256(row_id.encode()).hexdigest()[:8], 16)


@torch.no_grad()
def cosines(objective: CLIPKD, clip: CLIP, teacher: FrozenTeacher, held: Validation) -> dict[str, float]:
    """Mean cosine of lifted student and teacher on held-out pictures and on the classes' captions."""
    assert clip.preprocess is not None
    clip.eval()
    pixels = torch.from_numpy(clip.preprocess.normalize(held.images[:500]))
    captions = sorted(set(held.captions))
    image = F.normalize(objective.P_v(clip.encode_image(pixels, normalize=False)), dim=-1)
    text = F.normalize(objective.P_t(clip.encode_text(captions, normalize=False)), dim=-1)
    return {
        "image": round(float((image * teacher.image(pixels)).sum(-1).mean()), 4),
        "text": round(float((text * teacher.text(captions, text)).sum(-1).mean()), 4),
    }


def main() -> None:
    """Measure and record."""
    torch.set_num_threads(1)
    path = shared_data() / "cifar100.parquet"
    pairs, held = Rows(path, test=False), Rows(path, test=True)
    base = read_recipe("clip-kd-nano").with_(
        [
            "data.augment=none",
            f"data.batch_size={BATCH}",
            f"phases.0.steps={STEPS}",
            "validate={}",
            "data.pairs=cifar100",
        ]
    )
    figures: dict[str, Any] = {"rows": [len(pairs), len(held)], "steps": STEPS, "batch": BATCH, "teacher_size": SIZE}
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        student = build_model(base.model, pairs)
        validation = Validation.of(held, student, rows=None, which=["a photo of a {}."])
        teacher = FrozenTeacher("pocket", size=SIZE)
        teacher.prepare(student, base.to_dict())
        began = time.perf_counter()
        keep_vectors(teacher, student, pairs, base.to_dict(), place / "kept")
        figures["seconds_of_the_teacher"] = round(time.perf_counter() - began)
        print(figures, flush=True)
        table = FrozenTeacher("pocket", size=SIZE, cache=place / "kept")
        table.prepare(student, base.to_dict())
        for name, weights in WAYS.items():
            began, scores, near = time.perf_counter(), [], []
            for seed in SEEDS:
                recipe: Recipe = base.with_([f"seed={seed}", "checkpoint.every=100000"])
                clip = build_model(recipe.model, pairs, seed=seed)
                objective = CLIPKD("pocket", teacher_size=SIZE, cache=place / "kept", **weights)
                run = Run(Job(recipe, clip, objective, pairs), place / f"{name}{seed}", machine=Machine(cpu=True))
                run.train()
                scores.append(validation.measure(run.clip)["accuracy"])
                if objective.weights["fd"]:
                    near.append(cosines(objective, run.clip, teacher, validation))
            figures[name] = spread(scores) | {"seconds": round(time.perf_counter() - began)}
            if near:
                figures[name]["cosine"] = {side: spread([n[side] for n in near]) for side in ("image", "text")}
            print(name, figures[name], flush=True)
    figures["fd_over_task"] = round(figures["task_fd"]["mean"] - figures["task"]["mean"], 4)
    figures["unified_over_fd"] = round(figures["unified"]["mean"] - figures["task_fd"]["mean"], 4)
    record(
        "train_clip_kd",
        figures,
        wanted="task + FD over task by 0.02, unified not under FD by more than 0.005, cosine over 0.8 after FD",
        seed=0,
        data=digest(path),
        notes=f"zero-shot accuracy on held-out CIFAR-100; teacher `pocket` at {SIZE} pixels, student nano of width 32",
        methods=("clip_kd",),
    )


if __name__ == "__main__":
    main()
