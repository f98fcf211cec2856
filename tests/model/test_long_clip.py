"""Long-CLIP's surgery: the stretched table, short captions, what is saved; the command."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch

from binderclip.cli.main import run
from binderclip.errors import InputError, NeedsPartError
from binderclip.hub import load
from binderclip.hub.native import save
from binderclip.model.build import build
from binderclip.model.long_clip import long_clip, shorten, stretch

from ..train.kit import TOKENIZER, tiny_clip

pytestmark = pytest.mark.system("long_clip")


def test_stretch() -> None:
    slope, start = torch.tensor([0.005, -0.02]), torch.tensor([0.3, 1.0])
    line = torch.outer(torch.arange(77.0), slope) + start
    found = stretch(line)
    assert found.shape == (248, 2)
    j = torch.arange(20, 248)
    assert (found[20:] - (torch.outer(20 + (j - 20) / 4, slope) + start)).abs().max() < 1e-5
    P = torch.randn(77, 3, generator=torch.Generator().manual_seed(0))
    made = stretch(P)
    assert torch.equal(made[:20], P[:20])
    assert torch.equal(made[20:248:4], P[20:])
    for i in range(56):
        for r in range(4):
            slow = (1 - r / 4) * P[20 + i] + (r / 4) * P[21 + i]
            assert torch.allclose(made[20 + 4 * i + r], slow, atol=1e-6)
    for r in range(4):
        assert torch.allclose(made[244 + r], P[76] + (r / 4) * (P[76] - P[75]), atol=1e-6)
    assert torch.equal(stretch(P, factor=1), P)
    with pytest.raises(InputError, match="cannot keep 76"):
        stretch(P, keep=76)


def test_short_captions_stay() -> None:
    clip = tiny_clip().eval()
    before = {"scale": clip.scale.item(), "positions": clip.tower("text").positions.clone()}  # type: ignore[union-attr, operator]
    longer = long_clip(clip, keep=10, factor=3)
    text = longer.tower("text")
    assert text.context_length == 10 + 3 * 22 == len(text.positions)  # type: ignore[arg-type]
    short = ["a red circle", "one star"]
    with torch.no_grad():
        assert (clip.encode_text(short) - longer.encode_text(short)).abs().max() < 1e-5
        long = ["a red circle and a blue star and a green square and a yellow ring in a picture with many things in it"]
        before_cut = clip.tokenizer.truncated  # type: ignore[union-attr]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said once a tokenizer, which other tests share
            cut = clip.encode_text(long)
        assert clip.tokenizer.truncated == before_cut + 1  # type: ignore[union-attr]
        assert (cut - longer.encode_text(long)).abs().max() > 1e-3
    assert torch.equal(clip.tower("text").positions, before["positions"])  # type: ignore[arg-type]
    assert clip.tokenizer is not None
    assert clip.tokenizer.context_length == TOKENIZER.context_length == 32


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    made = long_clip(tiny_clip().eval(), keep=10)
    save(made, tmp_path / "long")
    again = load(tmp_path / "long").eval()
    texts = ["a picture with a red circle and a blue star and a green square and a yellow ring and much more in it"]
    with torch.no_grad():
        assert torch.equal(again.encode_text(texts), made.encode_text(texts))
    assert again.tokenizer is not None
    assert again.tokenizer.context_length == 98
    assert again.name == "tiny-long"


def test_shorten() -> None:
    assert shorten("A dog runs. It is brown.\nThe sky is blue.") == "A dog runs"
    assert shorten("one line\nmore of it. end") == "one line more of it"
    assert shorten("nothing to cut.") == "nothing to cut."


def test_a_bidirectional_tower_is_refused() -> None:
    text = {"kind": "text_transformer", "vocab_size": 50, "context_length": 16, "width": 16, "layers": 1, "heads": 2}
    clip = build({"embed_dim": 8, "towers": {"text": {**text, "causal": False}}})
    with pytest.raises(NeedsPartError, match="not causal with learned positions"):
        long_clip(clip)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tiny_clip().eval(), tmp_path / "tiny")
    common = ["model", "change", str(tmp_path / "tiny"), "--method", "long_clip"]
    assert run([*common, "--set", "keep=10", "-o", str(tmp_path / "long"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["method"] == "long_clip"
    assert load(tmp_path / "long").tower("text").context_length == 98
    for arguments, message in (
        ([*common, "-o", str(tmp_path / "long")], "is there already"),
        ([*common, "-o", str(tmp_path / "b"), "--set", "rows=3"], "has no option 'rows'"),
        ([*common, "-o", str(tmp_path / "b"), "--set", "keep=99"], "cannot keep 99"),
        (["model", "change", str(tmp_path / "tiny"), "--method", "gda", "-o", "b"], "gda changes no model"),
    ):
        assert run(arguments) == 2
        said = capsys.readouterr().err
        assert message in said
        assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "b").exists()
