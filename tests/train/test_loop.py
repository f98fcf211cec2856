"""The loop: phases, stops of every kind, what is held out, averages. Runs of a tiny CLIP on 64 scenes of 16 pixels."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from binderclip.data.pairs import Pairs
from binderclip.errors import InputError
from binderclip.hub import native
from binderclip.model.base import State
from binderclip.model.clip import CLIP
from binderclip.train.base import Features, Loss, TrainBatch
from binderclip.train.contrastive import Contrastive
from binderclip.train.logbook import read
from binderclip.train.recipe import read_yaml
from binderclip.train.validation import Validation

from .kit import SCENES, job, recipe, run, tiny_clip

PHASES: dict[str, Any] = {
    "phases": [
        {"steps": 3, "image_size": 8, "text_length": 6, "freeze": ["text.blocks.0.*"]},
        {"steps": 4, "image_keep": 0.5, "lr": 1e-3, "unfreeze": ["text.*"], "batch_size": 4},
    ]
}


SGD: dict[str, Any] = {"name": "sgd", "lr": 0.1, "weight_decay": 0.0}


class Watching(Contrastive):
    """Keeps the shapes that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int, int, int]] = []

    def encode(self, clip: CLIP, batch: TrainBatch) -> Features:
        tokens: list[int] = []

        def count(state: State) -> State:
            tokens.append(state.x.shape[1])
            return state

        clip.encode("image", batch.views[0], {**(batch.image_at or {}), "blocks.0.in": count})
        self.seen.append((len(batch), batch.views[0].shape[-1], tokens[0], batch.ids[0].shape[1]))
        return super().encode(clip, batch)


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    other = b.state_dict()
    return all(torch.equal(v, other[k]) for k, v in a.state_dict().items())


def test_phases_change_sizes_tokens_texts_rates_and_what_is_frozen(tmp_path: Path) -> None:
    objective, clip = Watching(), tiny_clip()
    first = clip.tower("text").get_parameter(_block_weight(clip)).clone()
    records: list[Any] = []
    made = run(tmp_path / "run", objective, recipe(**PHASES), clip=clip, listener=records.append)
    made.train(until=3)
    assert torch.equal(clip.tower("text").get_parameter(_block_weight(clip)), first)
    made.train()
    assert not torch.equal(clip.tower("text").get_parameter(_block_weight(clip)), first)
    # 8 pixels are 2 x 2 patches and the class token; later 16 patches, of which half stay
    assert [row[:3] for row in objective.seen] == [(8, 8, 5)] * 3 + [(4, 16, 9)] * 4
    assert all(row[3] <= 6 for row in objective.seen[:3])
    steps = [record for record in records if record["event"] == "step"]
    assert [round(step["lr"], 6) for step in steps[::3]] == [
        1e-2,
        1e-3,
        pytest.approx(1e-3 * (1 + 2**-0.5 * -1) / 2, abs=1e-6),
    ]


def _block_weight(clip: CLIP) -> str:
    return next(
        name for name, p in clip.tower("text").named_parameters() if name.startswith("blocks.0") and p.dim() == 2
    )


@pytest.mark.parametrize("stop", [2, 3, 5])
def test_a_run_of_phases_resumes_to_the_bit_before_at_and_behind_a_border(tmp_path: Path, stop: int) -> None:
    whole = run(tmp_path / "whole", Contrastive(), recipe(**PHASES))
    whole.train()
    run(tmp_path / "parts", Contrastive(), recipe(**PHASES)).train(until=stop)
    again = run(tmp_path / "parts", Contrastive(), recipe(**PHASES))
    again.train()
    assert same(whole.clip, again.clip)
    log = [(r["step"], r.get("loss")) for r in read(tmp_path / "parts" / "log.jsonl") if r["event"] == "step"]
    assert log == [(r["step"], r.get("loss")) for r in read(tmp_path / "whole" / "log.jsonl") if r["event"] == "step"]


class Poisoned(Contrastive):
    """The fourth batch has no loss."""

    poisoned = True

    def loss(self, clip: CLIP, features: Features, batch: TrainBatch, step: int, total: int) -> Loss:
        loss = super().loss(clip, features, batch, step, total)
        return Loss(loss.total * float("nan")) if self.poisoned and step == 3 else loss


def test_a_loss_that_is_no_number_stops_and_keeps_the_good_weights(tmp_path: Path) -> None:
    made = run(tmp_path, Poisoned())
    with pytest.raises(InputError, match=r"the loss is nan at step 3: stopped.*\(train/0/\d+, .*lower optimizer.lr"):
        made.train()
    named = json.loads((tmp_path / "bad_batch.json").read_text())
    assert named["step"] == 3
    assert len(named["ids"]) == 8
    assert all(bool(p.isfinite().all()) for p in made.clip.parameters())
    reference = run(tmp_path / "reference", Contrastive())
    reference.train(until=3)
    healed = Poisoned()
    healed.poisoned = False
    again = run(tmp_path, healed)
    assert again.step == 3
    assert same(again.clip, reference.clip)
    seen: list[str] = []
    again.objective.encode = lambda clip, batch: (seen.extend(batch.index), Contrastive.encode(healed, clip, batch))[1]  # type: ignore[method-assign, func-returns-value]
    again.train(until=4)
    assert not set(seen) & set(named["ids"])  # the bad batch is passed over


def test_ctrl_c_is_heard_between_steps_and_nothing_is_lost(tmp_path: Path) -> None:
    def stop(record: dict[str, Any]) -> None:
        if record["event"] == "step" and record["step"] == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", Contrastive(), listener=stop).train()
    again = run(tmp_path / "parts", Contrastive())
    assert again.step == 2
    again.train()
    whole = run(tmp_path / "whole", Contrastive())
    whole.train()
    assert same(whole.clip, again.clip)


def test_a_killed_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """kill -9 behind step 5, checkpoints every 2: the rest is done again, to the same bits."""
    program = (
        "import os, signal, torch\nfrom pathlib import Path\n"
        "from tests.train.kit import recipe, run\nfrom binderclip.train.contrastive import Contrastive\n"
        "torch.set_num_threads(1)\n"
        "die = lambda r: os.kill(os.getpid(), signal.SIGKILL) if r['event'] == 'step' and r['step'] == 5 else None\n"
        f"run(Path({str(tmp_path / 'parts')!r}), Contrastive(), recipe(checkpoint={{'every': 2}}), listener=die).train()\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    torch.set_num_threads(1)
    made = recipe(checkpoint={"every": 2})
    again = run(tmp_path / "parts", Contrastive(), made)
    assert again.step == 4
    again.train()
    whole = run(tmp_path / "whole", Contrastive(), made)
    whole.train()
    assert same(whole.clip, again.clip)


def test_pieces_and_the_whole_batch_train_alike(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", Contrastive(), recipe(optimizer=SGD))
    whole.train()
    parts = run(tmp_path / "parts", Contrastive(), recipe(optimizer=SGD, micro_batch=3))
    parts.train()
    other = parts.clip.state_dict()
    worst = max(float((v - other[k]).abs().max()) for k, v in whole.clip.state_dict().items())
    assert worst < 1e-5  # fp32 sums in another order


def test_bf16_runs(tmp_path: Path) -> None:
    records: list[Any] = []
    made = run(tmp_path, Contrastive(), recipe(precision="bf16"), listener=records.append)
    made.train(until=1)
    assert 0 < records[-2]["loss"] < 10
    assert all(p.dtype == torch.float32 for p in made.clip.parameters())


def test_the_average_of_the_weights_is_exported(tmp_path: Path) -> None:
    made = run(tmp_path / "ema", Contrastive(), recipe(average={"ema": 0.5}, phases=[{"steps": 2}]))
    names = [name for name, _ in made.clip.named_parameters()]
    seen = [{k: v.clone() for k, v in made.clip.named_parameters()}]
    made.listener = lambda record: (
        seen.append({k: v.clone() for k, v in made.clip.named_parameters()}) if record["event"] == "step" else None
    )
    result = made.train()
    assert result is not None
    for name in names:
        want = 0.25 * seen[0][name] + 0.25 * seen[1][name] + 0.5 * seen[2][name]
        assert torch.allclose(result.get_parameter(name), want, atol=1e-6), name
    half = run(tmp_path / "start", Contrastive(), recipe(average={"start": 0.5}, phases=[{"steps": 2}]))
    start = {k: v.clone() for k, v in half.clip.named_parameters()}
    mixed = half.train()
    assert mixed is not None
    saved = native.load(tmp_path / "start" / "model")
    assert same(mixed, saved)
    plain = run(tmp_path / "plain", Contrastive(), recipe(phases=[{"steps": 2}])).train()
    assert plain is not None
    for name in names:
        assert torch.allclose(saved.get_parameter(name), (start[name] + plain.get_parameter(name)) / 2, atol=1e-6), name


class Backwards(Contrastive):
    """Unlearns."""

    def loss(self, clip: CLIP, features: Features, batch: TrainBatch, step: int, total: int) -> Loss:
        return Loss(-super().loss(clip, features, batch, step, total).total)


def test_validation_stops_early_and_the_best_is_exported(tmp_path: Path) -> None:
    made = recipe(
        validate={"every": 1, "patience": 2, "metric": "loss"},
        phases=[{"steps": 40}],
    )
    ready = job(made, Backwards())
    ready.validation = Validation.of(Pairs.open("scenes:32?size=16&split=test&objects=1-2"), ready.clip)
    ready.retained = Validation.of(Pairs.open("scenes:32?size=16&split=test&label=shape"), ready.clip)
    from binderclip.train.loop import Run
    from binderclip.train.machine import Machine

    trained = Run(ready, tmp_path, machine=Machine(cpu=True))
    result = trained.train()
    assert result is not None
    assert trained.step < 40
    measured = [r for r in read(tmp_path / "log.jsonl") if r["event"] == "validation"]
    assert [r["step"] for r in measured] == list(range(trained.step + 1))
    assert all(0 <= r["retained_accuracy"] <= 1 for r in measured)
    best = min(measured, key=lambda r: r["loss"])
    assert trained.best is not None
    assert trained.best[1] == best["step"]
    assert ready.validation.measure(result)["loss"] == pytest.approx(best["loss"], abs=1e-5)
    assert (tmp_path / "curves.html").read_text().count("<svg") >= 3


def test_a_run_keeps_its_recipe_and_its_start(tmp_path: Path) -> None:
    clip = tiny_clip()
    begun = {k: v.clone() for k, v in clip.state_dict().items()}
    run(tmp_path, Contrastive(), clip=clip).train(until=1)
    assert read_yaml(tmp_path / "recipe.yaml")["data"]["pairs"] == SCENES
    kept = native.load(tmp_path / "start").state_dict()
    assert all(torch.equal(v, kept[k]) for k, v in begun.items())
