"""The language model plug: a tiny one learns, is saved and loaded; prefixes, padding and decoding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from binderclip.caption.lm import LanguageModel
from binderclip.caption.penalty_decoding import PenaltyDecoding
from binderclip.errors import InputError, OfflineError

TEXTS = ["a red circle", "a blue star", "a green square and a ring", "two red stars"] * 4


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    made = LanguageModel.tiny(TEXTS, vocab_size=300, dim=32, layers=1, heads=2, max_len=24)
    made.pretrain(TEXTS, steps=60, batch=16, lr=5e-3)
    return made


def test_it_learns_and_says_what_it_learnt(lm: LanguageModel) -> None:
    fresh = LanguageModel.tiny(TEXTS, vocab_size=300, dim=32, layers=1, heads=2, max_len=24)
    ids = lm.ids(TEXTS[:4])
    assert float(lm.loss(None, ids).detach()) < 0.6 * float(fresh.loss(None, ids).detach())
    prompt = lm.ids(["a red"])[:, :-1]
    [[text]] = lm.generate(prompt_ids=prompt, max_new_tokens=8)
    assert text.strip() in ("circle", "stars")
    assert lm.decode(lm.encode("a blue star")) == "a blue star"


def test_loss_by_a_loop(lm: LanguageModel) -> None:
    ids = lm.ids(["a red circle", "a green square and a ring"])
    prefix = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    total, count = 0.0, 0
    with torch.no_grad():
        for b in range(2):
            row = ids[b][ids[b] != lm.pad_id]
            logits = lm.logits(prefix[b : b + 1], row[None])[0]
            for i, token in enumerate(row.tolist()):
                total -= float(logits[2 + i].log_softmax(0)[token])
                count += 1
        assert float(lm.loss(prefix, ids)) == pytest.approx(total / count, rel=1e-5)
        plain = lm.logits(None, ids)
        expected = F.cross_entropy(plain[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), ignore_index=lm.pad_id)
        assert float(lm.loss(None, ids)) == pytest.approx(float(expected))


def test_it_is_saved_and_loaded(lm: LanguageModel, tmp_path: Path) -> None:
    again = LanguageModel.load(str(lm.save(tmp_path / "lm")))
    assert (again.pad_id, again.bos_id, again.eos_id) == (0, 1, 2)
    assert again.encode("a blue star") == lm.encode("a blue star")
    ids = lm.ids(TEXTS[:2])
    assert torch.allclose(again.logits(None, ids), lm.logits(None, ids), atol=1e-6)
    assert not any(p.requires_grad for p in again.model.parameters())
    assert not list((tmp_path / "lm").glob("*.bin"))


def test_prefixes_beams_and_processors(lm: LanguageModel) -> None:
    prefix = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(1))
    greedy = lm.generate(prefix, max_new_tokens=6)
    assert len(greedy) == 2
    assert greedy == lm.generate(prefix, max_new_tokens=6)
    beams = lm.generate(prefix, num_beams=3, num_return=2, max_new_tokens=6)
    assert [len(row) for row in beams] == [2, 2]
    sampled = [lm.generate(prefix, do_sample=True, seed=s, max_new_tokens=6) for s in (0, 0)]
    assert sampled[0] == sampled[1]
    ids = lm.generate_ids(prefix, max_new_tokens=12, processors=[PenaltyDecoding(50.0, window=None, eos_id=2)])
    assert all(len(set(row)) == len(row) for row in ids)  # so strong that nothing comes twice


def test_what_cannot_be(lm: LanguageModel) -> None:
    with pytest.raises(InputError, match="is longer than this model's 24"):
        lm.ids(["a red circle " * 20])
    with pytest.raises(InputError, match="24 positions"):
        lm.logits(torch.zeros(1, 20, 32), lm.ids(["a green square and a ring"]))
    with pytest.raises(InputError, match="give at least one"):
        LanguageModel.tiny([])
    with pytest.raises(OfflineError, match="no language model can be loaded from"):
        LanguageModel.load("nowhere/at-all")
