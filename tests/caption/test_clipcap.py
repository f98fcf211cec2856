"""ClipCap: mappers, loss, freezing, beams, files, the command; what it learns is `bench:caption_clipcap`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from binderclip.caption.clipcap import ClipCap
from binderclip.caption.lm import LanguageModel
from binderclip.caption.mappers import make_mapper
from binderclip.cli.main import run
from binderclip.errors import CheckpointError, InputError

pytestmark = pytest.mark.system("clipcap")

WORDS = ["a red circle", "a blue star", "a green ring", "a pink cross"]


def vectors(n: int = 40, d: int = 8) -> tuple[Any, list[list[str]]]:
    rng = np.random.default_rng(0)
    at = np.arange(n) % 4
    return (np.eye(d)[at] * 3 + 0.3 * rng.normal(size=(n, d))).astype(np.float32), [[WORDS[k]] for k in at]


def tiny() -> LanguageModel:
    return LanguageModel.tiny(WORDS, vocab_size=280, dim=32, layers=1, heads=2, max_len=32)


def fitted(**options: Any) -> ClipCap:
    settings = {
        "prefix_length": 3,
        "layers": 1,
        "heads": 2,
        "lr": 5e-3,
        "warmup": 5,
        "batch": 20,
        "epochs": 40,
        **options,
    }
    return ClipCap(tiny(), **settings).fit(*vectors())


@pytest.fixture(scope="module")
def made() -> ClipCap:
    return fitted()


def test_shapes() -> None:
    v, order = torch.randn(6, 512), torch.tensor([3, 1, 5, 0, 4, 2])
    for kind in ("mlp", "transformer"):
        torch.manual_seed(0)
        mapper = make_mapper(kind, 512, 64, 10, 10, 8, 8)
        with torch.no_grad():
            out = mapper(v)
            assert out.shape == (6, 10, 64)
            assert (mapper(v[order]) - out[order]).abs().max() < 1e-6 * max(1.0, float(out.abs().max()))
    mlp = make_mapper("mlp", 512, 64, 10, 10, 8, 8)
    assert [tuple(p.shape) for p in mlp.parameters()] == [(320, 512), (320,), (640, 320), (640,)]
    with pytest.raises(InputError, match="use mlp or transformer"):
        make_mapper("rnn", 8, 8, 1, 1, 1, 1)
    with pytest.raises(InputError, match="does not divide"):
        make_mapper("transformer", 8, 30, 1, 1, 1, 8)


def test_loss_by_a_loop(made: ClipCap) -> None:
    assert made.lm is not None
    v, _ = vectors(3)
    ids = made.lm.ids(["a red circle", "a blue star", "a ring"], bos=False)
    x = made._vectors(v)
    total, count = 0.0, 0
    with torch.no_grad():
        for b in range(3):
            row = [int(t) for t in ids[b] if t != made.lm.pad_id]
            assert row[-1] == made.lm.eos_id
            for i, token in enumerate(row):
                before = torch.tensor([row[:i]], dtype=torch.long)
                words = torch.cat([made._mapped(x[b : b + 1]), made.lm.embed(before)], dim=1)
                total -= float(made.lm.model(inputs_embeds=words).logits[0, -1].log_softmax(0)[token])
                count += 1
        assert float(made.loss(x, ids)) == pytest.approx(total / count, abs=1e-5)


def test_freezing() -> None:
    for frozen in (True, False):
        lm = tiny()
        before = {k: v.clone() for k, v in lm.model.state_dict().items()}
        made = ClipCap(lm, prefix_length=3, freeze_lm=frozen, lr=1e-3, warmup=1, batch=20, epochs=2.5)
        steps: list[int] = []
        v, captions = vectors()
        made._start(8)
        start = {k: p.clone() for k, p in made.mapper.state_dict().items()}  # type: ignore[union-attr]
        made.fit(v, captions, on_step=lambda step, total, loss, seen=steps: seen.append(step))
        assert steps == [1, 2, 3, 4, 5]
        assert all(torch.equal(p, before[k]) for k, p in lm.model.state_dict().items()) == frozen
        assert not any(torch.equal(p, start[k]) for k, p in made.mapper.state_dict().items())  # type: ignore[union-attr]


def test_it_says_what_it_learnt(made: ClipCap) -> None:
    v, captions = vectors(8)
    assert made.caption(v, beam=1) == [own[0] for own in captions]
    assert made.caption(v * 7, beam=1) == made.caption(v, beam=1)  # vectors are made unit
    words = made.explain(v[0])
    assert len(words) == 3


def test_beams(made: ClipCap) -> None:
    assert made.lm is not None
    v = np.random.default_rng(1).normal(size=(40, 8)).astype(np.float32)
    prefix = made.prefix(v)
    greedy = made.lm.generate_ids(prefix, max_new_tokens=12)
    assert made.lm.generate_ids(prefix, num_beams=1, max_new_tokens=12) == greedy
    beams = made.lm.generate_ids(prefix, num_beams=5, max_new_tokens=12, length_penalty=1.0)

    def score(i: int, ids: list[int]) -> float:
        ids = [t for t in ids if t != made.lm.pad_id]  # type: ignore[union-attr]
        with torch.no_grad():
            logits = made.lm.logits(prefix[i : i + 1], torch.tensor([ids]))[0, 2:-1].log_softmax(-1)  # type: ignore[union-attr]
        return float(logits[torch.arange(len(ids)), torch.tensor(ids)].mean())

    better = [score(i, beams[i]) >= score(i, greedy[i]) - 1e-6 for i in range(40)]
    assert np.mean(better) >= 0.95


def test_it_is_saved_and_loaded(made: ClipCap, tmp_path: Path) -> None:
    made.about = {"model": "pocket"}
    again = ClipCap.load(made.save(tmp_path / "c"))
    v, _ = vectors(8)
    assert again.caption(v) == made.caption(v)
    assert again.about == {"model": "pocket"}
    assert again.settings == made.settings
    (tmp_path / "c" / "mapper.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="holds no captioner"):
        ClipCap.load(tmp_path / "c")
    with pytest.raises(InputError, match="learnt from 8: use its model"):
        made.caption(np.zeros((1, 9), np.float32) + 1)


def test_what_cannot_be() -> None:
    v, captions = vectors(4)
    with pytest.raises(InputError, match="at least one caption a vector"):
        ClipCap(tiny()).fit(v, captions[:3])
    with pytest.raises(InputError, match="learnt nothing yet"):
        ClipCap(tiny()).caption(v)
    with pytest.raises(InputError, match="at least one"):
        ClipCap(tiny()).fit(np.zeros((0, 8)), [])


@pytest.mark.slow
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "captioner"
    train = ["caption", "train", "scenes:120?size=64&objects=1&captions=1", "--out", str(out)]
    assert run([*train, "--set", "epochs=6", "--set", "lr=1e-3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pictures"] == 120
    from skimage import data
    from skimage.io import imsave

    imsave(tmp_path / "cat.png", data.chelsea())
    assert run(["caption", str(tmp_path / "cat.png"), "--captioner", str(out), "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row["caption"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["EMPTY"], "no pictures in"),
        (["a.png", "--captioner", "EMPTY"], "holds no captioner"),
        (["train", "EMPTY", "--out", "c"], "no pictures, videos or sounds"),
        (["train", "scenes:4?size=16", "--out", "EMPTY"], "is there already"),
        (["train", "scenes:4?size=16", "--out", "c", "--method", "gda"], "gda is no captioner"),
        (["train", "scenes:4?size=16", "--out", "c", "--set", "layer=2"], "has no option 'layer'"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save("a.png")
    assert run(["caption", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "c").exists()
