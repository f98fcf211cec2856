"""`binderclip train` and `binderclip recipes`, as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from binderclip.cli.main import run
from binderclip.hub import native

Captured = pytest.CaptureFixture[str]

SMALL = [
    "data.pairs=scenes:64?size=32&objects=1-2",
    "data.batch_size=8",
    "phases.0.steps=4",
    "phases.0.warmup=0",
    "validate.pairs=scenes:16?size=32&split=test",
    "model.towers={image: {layers: 1, width: 32}, text: {layers: 1, width: 32}}",
    "model.tokenizer={learn: 400, context_length: 40}",
]


def test_a_recipe_is_run_stopped_and_gone_on_with(tmp_path: Path, capsys: Captured) -> None:
    out = str(tmp_path / "run")
    assert run(["train", "contrastive-nano", *SMALL, "--out", out, "--until", "2", "--cpu"]) == 0
    said = capsys.readouterr()
    assert "step 0/4  held out: image_to_text" in said.err
    assert f"stopped at step 2 of 4; `binderclip train {out}` goes on" in said.err
    assert run(["train", out, "--json", "--cpu"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["step"], facts["steps"], facts["model"]) == (4, 4, f"{out}/model")
    assert {row["measure"] for row in facts["held_out"]} == {"image_to_text", "text_to_image", "loss"}
    assert facts["read"]["bad"] == {}
    assert native.load(tmp_path / "run" / "model").tower("image").get_parameter("positions").shape == (17, 32)
    whole = str(tmp_path / "whole")
    assert run(["train", "contrastive-nano", *SMALL, "--out", whole, "--cpu"]) == 0
    said = capsys.readouterr()
    assert "held out" in said.out
    assert f"model: {whole}/model" in said.out
    a, b = (native.load(Path(folder) / "model").state_dict() for folder in (out, whole))
    assert all(torch.equal(v, b[k]) for k, v in a.items())
    assert run(["train", whole, "--cpu"]) == 2
    assert "is finished: its model is" in capsys.readouterr().err
    assert run(["train", "contrastive-nano", *SMALL, "seed=1", "--out", whole]) == 2
    assert "holds a run of another recipe" in capsys.readouterr().err
    assert run(["train", whole, "seed=1"]) == 2
    assert "goes on as it began" in capsys.readouterr().err


def test_dry_run_and_check_say_what_it_costs_and_write_nothing(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["train", "contrastive-nano", *SMALL, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "4 steps, 32 samples of 64 rows" in said
    assert "image tokens" in said
    assert run(["recipes", "check", "contrastive-nano", *SMALL, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["phases"][0]["image_tokens"] == 16
    assert facts["phases"][0]["samples"] == 32
    assert list(tmp_path.iterdir()) == []


def test_recipes_are_listed_shown_and_copied(tmp_path: Path, capsys: Captured) -> None:
    assert run(["recipes", "ls", "--json"]) == 0
    rows = {row["recipe"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["contrastive-nano"]["model"] == "nano"
    assert run(["recipes", "ls"]) == 0
    assert run(["recipes", "show", "contrastive-nano"]) == 0
    shown = capsys.readouterr().out
    assert "objective: {name: contrastive}" in shown
    mine = tmp_path / "mine.yaml"
    assert run(["recipes", "copy", "contrastive-nano", str(mine)]) == 0
    assert mine.read_text() in shown
    assert run(["recipes", "copy", "contrastive-nano", str(mine)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert run(["recipes", "copy", "contrastive-nano", str(tmp_path / "mine")]) == 2
    assert "must end in .yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing-like-it"], "there is no recipe 'nothing-like-it'"),
        (["contrastive-nano", "optimizer.lrr=1"], "did you mean 'lr'"),
        (["contrastive-nano", "data.pairs=missing-folder"], "missing-folder"),
        (["contrastive-nano", "phases.3.steps=1"], "there are 1 entries"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: list[str], message: str, capsys: Captured) -> None:
    assert run(["train", *arguments, "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.slow
def test_two_processes_train_what_one_trains(tmp_path: Path) -> None:
    """`accelerate launch` with two CPU processes against one, SGD, six steps: the same weights to 1e-5."""
    common = [*SMALL, "optimizer={name: sgd, lr: 0.05, weight_decay: 0.0}", "data.augment=none", "validate={}"]
    found = []
    for world in (1, 2):
        out = tmp_path / str(world)
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", str(world)]
        launch += [
            "--num_machines",
            "1",
            "--mixed_precision",
            "no",
            "--dynamo_backend",
            "no",
            "-m",
            "binderclip",
            "train",
        ]
        subprocess.run([*launch, "contrastive-nano", *common, "--out", str(out), "--cpu"], check=True, timeout=300)
        found.append(native.load(out / "model").state_dict())
    # Each step's 8 rows are the same: reader 0 has the even places of the shuffled rows, reader 1 the odd ones.
    worst = max(float((v - found[1][k]).abs().max()) for k, v in found[0].items())
    assert worst < 1e-5, worst
