"""What every objective must do, whatever it minimises: the room's one suite. A message begins with the rule it broke."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from binderclip.train.base import Objective
from binderclip.train.step import Trainee, gradients

from ..processes import in_two_processes
from .kit import batch, gradients_of, recipe, run, tiny_clip

Make = Callable[[], Objective]


def trains(make: Make, folder: Path) -> None:
    """A few steps: a finite scalar, and every trainable parameter of the objective has had a gradient."""
    seen: list[float] = []
    made = run(folder / "run", make(), listener=lambda record: seen.append(record.get("loss", 0.0)))
    before = {k: v.clone() for k, v in made.objective.named_parameters() if v.requires_grad}
    clip = made.train()
    assert clip is not None
    assert len(seen) >= 6
    assert all(abs(value) < 1e4 for value in seen), f"trains: losses {seen}"
    same = [k for k, v in made.objective.named_parameters() if v.requires_grad and torch.equal(v, before[k])]
    assert not same, f"trains: {same[:1]} was never changed"


def exports_the_bare_model(make: Make, folder: Path) -> None:
    """What is exported holds no head and no teacher; a bias of the logits is part of a CLIP."""
    clip = run(folder / "run", make()).train()
    assert clip is not None
    extra = (set(clip.state_dict()) ^ set(tiny_clip().state_dict())) - {"logit_bias"}
    assert not extra, f"exports: {sorted(extra)[:1]} is no part of the model"


def resumes_to_the_bit(make: Make, folder: Path) -> None:
    """Stopped in the middle and taken up again in a new process's objects: the same weights and the same state."""
    whole = run(folder / "whole", make())
    whole.train()
    run(folder / "parts", make()).train(until=3)
    again = run(folder / "parts", make())
    assert again.step == 3, "resumes: it began anew"
    again.train()
    for a, b in ((whole.clip, again.clip), (whole.objective, again.objective)):
        other = b.state_dict()
        odd = [k for k, v in a.state_dict().items() if not torch.equal(v, other[k])]
        assert not odd, f"resumes: {odd[0]} differs from an uninterrupted run"


def obeys_the_seed(make: Make, folder: Path) -> None:
    """One seed, one result."""
    first, second = run(folder / "a", make()).train(until=2), run(folder / "b", make())
    second.train(until=2)
    del first
    third = run(folder / "c", make())
    third.train(until=2)
    odd = [k for k, v in second.clip.state_dict().items() if not torch.equal(v, third.clip.state_dict()[k])]
    assert not odd, f"seed: {odd[0]} differs between two runs of one seed"


def leaves_what_is_frozen(make: Make, folder: Path) -> None:
    """Frozen parameters stay to the bit, and evaluation is not left on or off by a step."""
    clip = tiny_clip()
    before = {k: v.clone() for k, v in clip.tower("text").named_parameters()}
    made = run(folder / "run", make(), recipe(freeze=["text.*"]), clip=clip)
    made.train(until=2)
    odd = [k for k, v in clip.tower("text").named_parameters() if not torch.equal(v, before[k])]
    assert not odd, f"frozen: text.{odd[0]} was changed"


def is_the_same_in_pieces(make: Make, folder: Path) -> None:
    """Cached gradients equal those of the batch as a whole; or the objective says that it cannot be cut."""
    objective, clip = make().double(), tiny_clip().double()
    objective.setup(clip, {})
    objective.double()
    if not objective.cuttable or objective.draws:
        return
    rows = batch(objective, clip)
    trainee = Trainee(clip, objective)
    found = []
    for micro in (None, 3):
        trainee.zero_grad()
        loss = gradients(trainee, rows, 0, 10, micro_batch=micro)
        found.append((loss.total.detach(), gradients_of(clip, objective)))
    (one, whole), (two, parts) = found
    assert torch.allclose(one, two, rtol=0, atol=1e-9), "pieces: another loss"
    assert whole.keys() == parts.keys(), "pieces: other parameters have a gradient"
    worst = max(whole, key=lambda k: float((whole[k] - parts[k]).abs().max()))
    assert torch.allclose(whole[worst], parts[worst], rtol=0, atol=1e-8), f"pieces: another gradient of {worst}"


def is_the_same_in_two_processes(make: Make, folder: Path) -> None:
    """Two processes with half of the rows each: the mean of their losses and gradients is that of one (float64, 1e-6)."""
    objective, clip = make().double(), tiny_clip().double()
    torch.manual_seed(1)
    objective.setup(clip, {})
    objective.double()
    if objective.draws:
        return
    rows = batch(objective, clip)
    loss = gradients(Trainee(clip, objective), rows, 0, 10)
    whole = gradients_of(clip, objective)
    with tempfile.TemporaryDirectory() as place:
        torch.save({"clip": clip.state_dict(), "objective": objective.state_dict()}, f"{place}/weights")
        in_two_processes(_half, Path(place), make, rows)
        halves = [torch.load(f"{place}/{rank}", weights_only=True) for rank in range(2)]
    mean = (halves[0]["loss"] + halves[1]["loss"]) / 2
    assert abs(float(mean - loss.total.detach())) < 1e-6, "processes: another loss"
    for name, gradient in whole.items():
        both = (halves[0]["gradients"][name] + halves[1]["gradients"][name]) / 2
        assert torch.allclose(both, gradient, rtol=0, atol=1e-6), f"processes: another gradient of {name}"


def _half(rank: int, place: Path, make: Make, rows: object) -> None:
    objective, clip = make().double(), tiny_clip().double()
    objective.setup(clip, {})
    objective.double()
    weights = torch.load(place / "weights", weights_only=True)
    clip.load_state_dict(weights["clip"])
    objective.load_state_dict(weights["objective"])
    n = len(rows) // 2  # type: ignore[arg-type]
    part = rows.rows(rank * n, rank * n + n)  # type: ignore[attr-defined]
    trainee = Trainee(clip, objective, touch=True)
    loss = gradients(trainee, part, 0, 10)
    torch.save({"loss": loss.total.detach(), "gradients": gradients_of(clip, objective)}, place / f"{rank}")


RULES = {
    rule.__name__: rule
    for rule in (
        trains,
        exports_the_bare_model,
        resumes_to_the_bit,
        obeys_the_seed,
        leaves_what_is_frozen,
        is_the_same_in_pieces,
        is_the_same_in_two_processes,
    )
}
