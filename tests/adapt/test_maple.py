"""MaPLe: its towers against the plain ones, its gradients, its counts; and that pixels come in every form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from binderclip.adapt.heads import load_head, save_head
from binderclip.adapt.maple import CoupledPrompts, MaPLe
from binderclip.adapt.prompts import PromptLearner, deep_prompts
from binderclip.adapt.splits import split
from binderclip.cli.adapt import adapt_app
from binderclip.data.pairs import Pairs, RowPairs
from binderclip.engine.torch_encoder import TorchEncoder
from binderclip.errors import InputError, MediaError, NeedsPartError
from binderclip.hub import load
from binderclip.model.clip import CLIP
from binderclip.model.sites import recorder
from tests.adapt.kit import colour_clip
from tests.evaluate.helpers import COLOURS, picture, write_folder

pytestmark = pytest.mark.system("maple")
NAMES = tuple(COLOURS)
PICTURES = [picture(name, 100 * k + n) for k, name in enumerate(NAMES) for n in range(2)]
Y = np.repeat(np.arange(len(NAMES)), 2)
M, J = 2, 2


@pytest.fixture(scope="module")
def clip() -> CLIP:
    return colour_clip()


@pytest.fixture(scope="module")
def fitted(clip: CLIP) -> MaPLe:
    return MaPLe(clip, NAMES, lr=0.02, epochs=3, seed=1).fit(PICTURES, Y)


def unit(x: Tensor) -> np.ndarray:
    return (x / x.norm(dim=-1, keepdim=True)).detach().numpy()


def test_untrained_text_is_plain(clip: CLIP) -> None:
    made = MaPLe(clip, NAMES, depth=1, epochs=0).fit(PICTURES, Y)
    plain = unit(clip.encode_text([f"a photo of a {name}." for name in NAMES]))
    assert np.abs(made.W_ - plain).max() < 1e-5
    assert np.abs(made.encode_text(["blue", "red"]) - plain[[2, 0]]).max() < 1e-5


def test_no_visual_tokens_is_plain(clip: CLIP) -> None:
    made = MaPLe(clip, NAMES, n_ctx=0).fit(PICTURES, Y)
    assert np.abs(made.encode_image(PICTURES) - unit(clip.encode_image(PICTURES))).max() < 1e-5
    assert made.history_ == []


def test_parameter_count() -> None:
    for m, e, width, depth in ((M, 16, 24, 3), (2, 512, 768, 9)):
        prompts = CoupledPrompts(torch.zeros(m, e), depth, width)
        count = sum(p.numel() for p in prompts.parameters())
        assert count == m * e * depth + depth * (e * width + width)
    assert count == 3_555_072
    later = list(prompts.maps)[1:]
    assert all(torch.equal(f.weight, later[0].weight) for f in later)  # copies of one draw, weights of their own
    assert not torch.equal(prompts.maps[0].weight, later[0].weight)
    assert len({f.weight.data_ptr() for f in prompts.maps}) == depth


@pytest.mark.parametrize("coupled", [True, False])
def test_gradient_through_both_towers(clip: CLIP, coupled: bool) -> None:
    made = MaPLe(clip, NAMES, coupled=coupled)
    _, learner, prompts = made._parts()
    text, image = made._sites(learner, list(prompts.levels), prompts.visual())
    f = clip.encode_image(torch.randn(3, 3, 16, 16), image)
    W = made._features(learner, prompts.levels[0], text)

    def reached(z: Tensor, levels: Any) -> list[bool]:
        grads = torch.autograd.grad(z.logsumexp(1).sum(), list(levels), retain_graph=True, allow_unused=True)
        return [g is not None and bool(g.abs().sum() > 0) for g in grads]

    assert reached(f.detach() @ W.T, prompts.levels) == [True] * J  # through the text tower
    assert reached(f @ W.detach().T, prompts.levels) == [coupled] * J  # through the image tower, by the maps
    assert reached(f @ W.detach().T, prompts.maps.parameters() if coupled else prompts.free) == [True] * (
        4 if coupled else 2
    )


def test_the_model_stays(clip: CLIP) -> None:
    before = {key: value.clone() for key, value in clip.state_dict().items()}
    MaPLe(clip, NAMES, lr=0.1, epochs=2).fit(PICTURES, Y)
    assert all(torch.equal(value, before[key]) for key, value in clip.state_dict().items())
    assert all(parameter.grad is None for parameter in clip.parameters())


def test_replacement(clip: CLIP) -> None:
    levels, x, seen = [torch.randn(M, 16) for _ in range(J)], torch.randn(2, 3, 16, 16), {}  # type: ignore[var-annotated]
    at: Any = dict(deep_prompts(levels))
    for i in range(J):
        at[f"blocks.{i}.in"] = [*([at[f"blocks.{i}.in"]] if i else []), recorder(seen, f"in {i}")]
        at[f"blocks.{i}.out"] = recorder(seen, f"out {i}")
    clip.encode_image(x, at)
    assert {state.x.shape[1] for state in seen.values()} == {16 + 1 + M}
    assert torch.equal(seen["in 1"].x[:, -M:], levels[1].expand(2, -1, -1))
    assert torch.equal(seen["in 1"].x[:, :-M], seen["out 0"].x[:, :-M])
    plain: dict[str, Any] = {}
    clip.encode_image(x, {"embed.out": recorder(plain, "x")})
    entered = clip.tower("image").norm_pre(torch.cat([plain["x"].x, levels[0].expand(2, -1, -1)], 1))
    assert torch.allclose(seen["in 0"].x, entered, atol=1e-6)  # no position for prompts, and before the first norm
    # in the sentence: slots 1..M, and the position is not added again
    learner = PromptLearner(clip, ["red"], n_ctx=M, init="a photo of a")
    at = {"blocks.1.in": [deep_prompts(levels, learner.first)["blocks.1.in"], recorder(seen, "text")]}
    learner.features(at)
    assert torch.equal(seen["text"].x[0, 1 : 1 + M], levels[1])


def test_it_learns_in_any_form(clip: CLIP, fitted: MaPLe, tmp_path: Path) -> None:
    assert len(fitted.history_) == 3
    assert fitted.history_[-1] < fitted.history_[0]
    z = fitted.decision_function(PICTURES)
    assert (z.shape, z.dtype) == ((12, 6), np.float32)
    wanted = fitted.scale_ * fitted.encode_image(PICTURES) @ fitted.W_.T
    assert np.abs(z - wanted).max() < 1e-3
    arrays = np.stack([np.asarray(one) for one in PICTURES])
    assert np.abs(fitted.decision_function(arrays) - z).max() < 1e-5
    again = MaPLe(clip, NAMES, lr=0.02, epochs=3, seed=1).fit(arrays[::-1], Y[::-1])
    assert np.abs(again.decision_function(arrays) - z).max() < 1e-4  # neither form nor order of the rows counts
    folder = write_folder(tmp_path / "photos", per_class=2)
    pairs = Pairs.open(folder, kind="classes")
    small = MaPLe(clip, pairs.classes, epochs=1).fit(pairs)
    paths = sorted(folder.glob("*/*.png"))
    assert small.decision_function(pairs).shape == (12, 6)
    assert small.decision_function(paths).shape == (12, 6)
    (folder / NAMES[0] / "broken.png").write_bytes(b"\x89PNG no more")
    with pytest.raises(MediaError, match=r"broken\.png"):
        small.decision_function([*paths, folder / NAMES[0] / "broken.png"])
    with pytest.warns(UserWarning, match="1 of 13 pictures were left out"):
        MaPLe(clip, pairs.classes, epochs=0).fit(Pairs.open(folder, kind="classes"))


def test_heads_and_other_names(clip: CLIP, fitted: MaPLe, tmp_path: Path) -> None:
    save_head(tmp_path / "h.safetensors", fitted, "maple")
    again = load_head(tmp_path / "h.safetensors").adapter(TorchEncoder(clip))
    assert np.array_equal(again.decision_function(PICTURES), fitted.decision_function(PICTURES))
    assert set(fitted.state_dict()) == {"text", "visual", "weight", "bias"}
    other = fitted.for_classes(["blue", "red", "pale blue"])
    z = fitted.decision_function(PICTURES)
    assert np.abs(other.decision_function(PICTURES)[:, [1, 0]] - z[:, [0, 2]]).max() < 1e-3
    with pytest.raises(InputError, match="text is"):
        MaPLe(clip, NAMES, n_ctx=3).load_state_dict(fitted.state_dict())


def test_commands_of_the_prompt_learners(
    clip: CLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("binderclip.engine.Encoder", lambda name: TorchEncoder(clip))
    photos = write_folder(tmp_path / "photos", per_class=5)
    for method, options in (("maple", ["epochs=2"]), ("coop", ["epochs=2", "n_ctx=2", "n_views=2"])):
        head = tmp_path / f"{method}.safetensors"
        given = [part for option in options for part in ("--set", option)]
        call = ["fit", str(photos), "--method", method, *given, "--shots", "2", "--out", str(head), "--json"]
        assert adapt_app(args=call, standalone_mode=False) in (0, None)
        facts = json.loads(capsys.readouterr().out)
        assert (facts["method"], facts["learnt_from"]) == (method, 12)
        assert 0 <= facts["accuracy"] <= 1
        assert facts["held_out"] > 0
        again = load_head(head).adapter(TorchEncoder(clip))
        pairs = Pairs.open(photos, kind="classes")
        assert isinstance(pairs, RowPairs)
        rows = [pairs.row(i) for i in range(pairs.rows)]
        test = split([r.id for r in rows], [r.label for r in rows], shots=2)[2]  # type: ignore[misc,union-attr]
        held = [rows[int(i)] for i in test]
        assert again.score([r.image for r in held], [r.label for r in held]) == facts["accuracy"]  # type: ignore[union-attr]
        (photos / "broken.png").write_bytes(b"\x89PNG no more")
        assert adapt_app(args=["predict", str(head), str(photos), "--json"], standalone_mode=False) in (0, None)
        out, err = capsys.readouterr()
        assert len(json.loads(out)) == 30
        assert "1 could not be read, 30 classified" in err
        (photos / "broken.png").unlink()


def test_the_bench_compares_what_takes_vectors() -> None:
    from binderclip.adapt.trial import takes
    from binderclip.cards import cards

    assert [takes(cards()[slug]) for slug in ("coop", "gda", "maple", "tpt")] == [True, True, False, False]


@pytest.mark.parametrize("options", [{"coupled": False}, {"sides": "text"}, {"sides": "image"}, {"depth": 1}])
def test_ablations(clip: CLIP, options: dict[str, Any]) -> None:
    made = MaPLe(clip, NAMES, epochs=2, warmup_epochs=0, lr=0.05, **options).fit(PICTURES, Y)
    start = MaPLe(clip, NAMES, epochs=0, **options).fit(PICTURES, Y)
    assert not np.array_equal(made.text_, start.text_)
    if options.get("sides") == "image":
        assert np.abs(made.W_ - start.W_).max() < 1e-6
    if options.get("sides") == "text":
        assert np.abs(made.encode_image(PICTURES) - unit(clip.encode_image(PICTURES))).max() < 1e-5
    if options.get("coupled") is False:
        assert made.weight_.size == 0


def test_what_it_cannot_run_on(clip: CLIP) -> None:
    with pytest.raises(NeedsPartError, match="maple needs patch tokens; pocket has none: use a ViT"):
        MaPLe(load("pocket"), NAMES).fit(PICTURES, Y)
    made = MaPLe(clip, NAMES)
    for X, y, words in (
        (np.eye(3), [0, 1, 2], "works on pixels"),
        (PICTURES, None, "labelled"),
        (None, None, "labelled"),
        (PICTURES, Y + 9, "classes 0 to 5"),
        ([], [], "labelled"),
    ):
        with pytest.raises(InputError, match=words):
            made.fit(X, y)
    with pytest.raises(InputError, match="learnt nothing"):
        made.decision_function([Image.new("RGB", (4, 4))])
    with pytest.raises(InputError, match="sides is 'left'"):
        MaPLe(clip, NAMES, sides="left").fit(PICTURES, Y)
