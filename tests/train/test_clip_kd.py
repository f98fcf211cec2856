"""CLIP-KD: each term against autograd, loops or a closed form; the teacher stays out of everything; kept vectors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from binderclip.cards import find, load_method
from binderclip.data.pairs import Pairs
from binderclip.errors import InputError
from binderclip.hub import native
from binderclip.model.build import build
from binderclip.model.clip import CLIP
from binderclip.model.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from binderclip.train.clip_kd import CLIPKD, contrast_gradients, gradient_distill, one_way
from binderclip.train.parts.frozen_teacher import FrozenTeacher, fingerprint, refit
from binderclip.train.reading import Reader, augment_of

from .kit import SCENES, TOKENIZER, batch, recipe, run, tiny_clip

pytestmark = pytest.mark.system("clip_kd")


def unit(n: int, d: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return F.normalize(rows, dim=-1)


def teacher_of(width: int = 24, D: int = 12) -> CLIP:
    """A teacher of another width, size of picture and joint space."""
    config = tiny_clip().config
    config |= {"embed_dim": D, "preprocess": {"size": 24}}
    config["towers"]["image"] |= {"image_size": 24, "width": width}
    torch.manual_seed(6)
    clip = build({**config, "tokenizer": None})
    clip.tokenizer, clip.config = TOKENIZER, config
    return clip


def made(teacher: CLIP, student: CLIP | None = None, settings: dict[str, Any] | None = None, **weights: Any) -> Any:
    """(objective, student, batch, loss)"""
    student = student or tiny_clip()
    objective = CLIPKD(teacher, **weights)
    torch.manual_seed(0)
    objective.setup(student, settings or {})
    rows = batch(objective, student)
    return objective, student, rows, objective(student, rows)


def test_the_card_is_of_another_room() -> None:
    card = find("clip_kd")
    assert (card.room, card.kind, card.module) == ("compress", "Objective", "binderclip.train.clip_kd")
    assert load_method("clip_kd") is CLIPKD


def test_gd_is_autograd() -> None:
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        p, k = unit(6, 5, 0, dtype).requires_grad_(), unit(6, 5, 1, dtype).requires_grad_()
        s = torch.tensor(11.0, dtype=dtype)
        F.cross_entropy(s * p @ k.T, torch.arange(6)).backward()
        for ours, theirs in zip(contrast_gradients(p, k, s), (p.grad, k.grad), strict=True):
            assert theirs is not None
            assert (ours - theirs).abs().max() < tolerance
    v, t = unit(6, 5, 0), unit(6, 5, 1)
    assert gradient_distill(v, t, v, t, 7.0, 7.0) == 0
    # both directions: the text direction is the same with p and k swapped
    v_T, t_T = unit(6, 5, 2), unit(6, 5, 3)
    both = [contrast_gradients(a, b, s) for a, b, s in ((v, t, 7.0), (t, v, 7.0), (v_T, t_T, 9.0), (t_T, v_T, 9.0))]
    want = sum(((both[i][j] - both[i + 2][j]) ** 2).mean() for i in range(2) for j in range(2))
    assert torch.allclose(gradient_distill(v, t, v_T, t_T, 7.0, 9.0), torch.as_tensor(want))
    # the reference divides by s twice where the gradient multiplies: with 1/s for s it is the same function
    assert torch.equal(contrast_gradients(v, t, 4.0, "reference")[0], contrast_gradients(v, t, 0.25)[0])


def test_gd_is_of_order_one() -> None:
    """Weight 1e6 (N/1024)^2 D/512 on random pairs."""
    N, D = 64, 128
    v, t, v_T, t_T = (unit(N, D, seed) for seed in range(4))
    value = 1e6 * (N / 1024) ** 2 * D / 512 * float(gradient_distill(v, t, v_T, t_T, 1 / 0.07, 1 / 0.07))
    assert 0.5 < value < 20


def test_a_student_like_its_teacher() -> None:
    student = tiny_clip()
    objective, _, _, loss = made(student, student)
    with torch.no_grad():
        objective.icl_scale.copy_(student.logit_scale)
    loss = objective(student, batch(objective, student))
    assert not any(name.startswith("P_") for name, _ in objective.named_parameters())
    assert abs(loss.parts["crd"].item()) < 1e-6
    assert abs(loss.parts["fd"].item()) < 1e-10
    assert loss.parts["icl"].item() == pytest.approx(loss.parts["task"].item(), abs=1e-5)
    assert loss.total.item() == pytest.approx(2 * loss.parts["task"].item(), abs=1e-4)


def test_terms_equal_loops() -> None:
    objective, clip, rows, loss = made(teacher_of(), afd=1.0)
    features = objective.encode(clip, rows)
    v, t = (F.normalize(features[k], dim=-1) for k in ("image", "text"))
    v_T, t_T = features["teacher_image"], features["teacher_text"]
    s, s_T, N = clip.scale.item(), objective.teacher.scale, len(rows)

    def rows_of(a: Tensor, b: Tensor, scale: float) -> list[list[float]]:
        logits = [[math.exp(scale * float(a[i] @ b[j])) for j in range(N)] for i in range(N)]
        return [[x / sum(row) for x in row] for row in logits]

    with torch.no_grad():
        crd = 0.0
        for a, b, c, d in ((v, t, v_T, t_T), (t, v, t_T, v_T)):
            P, Q = rows_of(a, b, s), rows_of(c, d, s_T)
            crd += sum(Q[i][j] * math.log(Q[i][j] / P[i][j]) for i in range(N) for j in range(N)) / N / 2
        assert loss.parts["crd"].item() == pytest.approx(crd, abs=1e-5)
        v_, t_ = (
            F.normalize(lift(features[k]), dim=-1) for lift, k in ((objective.P_v, "image"), (objective.P_t, "text"))
        )
        c = 1 / 0.07
        P, Q = rows_of(v_, t_T, c), rows_of(t_, v_T, c)
        icl = -sum(math.log(P[i][i]) + math.log(Q[i][i]) for i in range(N)) / N / 2
        assert loss.parts["icl"].item() == pytest.approx(icl, abs=1e-4)
        a = F.normalize(objective.W_v(torch.cat([v_, v_T], 1)), dim=-1)
        b = F.normalize(objective.W_t(torch.cat([t_, t_T], 1)), dim=-1)
        P, Q = rows_of(a, b, c), rows_of(b, a, c)
        afd = -sum(math.log(P[i][i]) + math.log(Q[i][i]) for i in range(N)) / N / 2
        assert loss.parts["afd"].item() == pytest.approx(afd, abs=1e-4)
        weighted = {"task": 1.0, "crd": 1.0, "icl": 1.0, "fd": 2000 * 12 / 512, "afd": 1.0}
        total = sum(weighted[name] * part.item() for name, part in loss.parts.items())
        assert loss.total.item() == pytest.approx(total, rel=1e-5)


def test_raw_scale_multiplies_by_the_logarithm() -> None:
    a, b = unit(4, 3, 0), unit(4, 3, 1)
    objective, _, _, _ = made(tiny_clip(seed=3), raw_scale=True)
    want = (one_way(a, a, objective.icl_scale) + one_way(b, b, objective.icl_scale)) / 2
    assert objective._icl(a, b, b, a).item() == pytest.approx(want.item())
    assert objective.icl_scale.item() == pytest.approx(2.659, abs=1e-3)


def test_the_teacher_stays(tmp_path: Path) -> None:
    teacher = teacher_of()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    objective = CLIPKD(teacher)
    made_run = run(tmp_path / "run", objective)
    own = objective.teacher.clip
    assert own is not None
    assert not any(p.requires_grad for p in own.parameters())
    made_run.train(until=2)
    for source in (teacher, own):
        assert all(torch.equal(v, before[k]) for k, v in source.state_dict().items())
    assert all(p.grad is None for p in own.parameters())
    shapes = {name: tuple(p.shape) for name, p in objective.named_parameters()}
    assert shapes == {
        "P_v.weight": (12, 8), "P_v.bias": (12,), "P_t.weight": (12, 8), "P_t.bias": (12,), "icl_scale": (),
    }  # fmt: skip
    clip = made_run.clip
    rows = batch(objective, clip)
    features = objective.encode(clip, rows)
    assert not features["teacher_image"].requires_grad
    want = 0.0
    for lift, side in ((objective.P_v, "image"), (objective.P_t, "text")):
        cosine = F.cosine_similarity(lift(features[side]), features[f"teacher_{side}"], dim=-1)
        want += ((2 - 2 * cosine) / 12).mean().item()
    assert objective(clip, rows).parts["fd"].item() == pytest.approx(want, rel=1e-5)


def test_a_teacher_by_its_path(tmp_path: Path) -> None:
    native.save(tiny_clip(seed=4), tmp_path / "teacher")
    path, held = (made(teacher)[3] for teacher in (str(tmp_path / "teacher"), tiny_clip(seed=4)))
    assert path.total.item() == pytest.approx(held.total.item(), rel=1e-5)
    teacher = FrozenTeacher(tmp_path / "teacher")
    teacher.prepare(tiny_clip(), {})
    assert teacher.clip is not None
    assert not any(p.requires_grad for p in teacher.clip.parameters())
    assert not teacher.clip.training


def test_same_pixels() -> None:
    own, other = Preprocess(size=16), Preprocess(size=16, mean=IMAGENET_MEAN, std=IMAGENET_STD, crop_pct=0.875)
    shown = torch.rand(2, 16, 16, 3).mul(255).byte().numpy()
    pixels = torch.from_numpy(own.normalize(shown))
    assert torch.allclose(refit(pixels, own, own), pixels, atol=1e-6)
    assert torch.allclose(refit(pixels, own, other), torch.from_numpy(other.normalize(shown)), atol=1e-5)  # nothing cut
    assert refit(pixels, own, Preprocess(size=24)).shape == (2, 3, 24, 24)


def test_masked_fd_hides_patches_from_the_student_alone() -> None:
    seen: dict[str, int] = {}
    objective, clip, rows, _ = made(tiny_clip(seed=2), mask=0.75)
    assert objective.draws
    blocks = {"student": clip.tower("image").blocks[0], "teacher": objective.teacher.clip.tower("image").blocks[0]}
    hooks = [
        block.register_forward_hook(lambda _, args, out, name=name: seen.update({name: out.x.shape[1]}))
        for name, block in blocks.items()
    ]
    objective.train()
    objective.encode(clip, rows)
    assert seen == {"student": 1 + 4, "teacher": 1 + 16}
    objective.eval()
    objective.encode(clip, rows)
    assert seen["student"] == 17
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("data", [{"augment": None}, {"augment": "clip", "cycle": 2}])
def test_kept_vectors(data: dict[str, Any], tmp_path: Path) -> None:
    """FD on kept vectors equals FD on the live teacher; another teacher's vectors are refused."""
    teacher, student = teacher_of(), tiny_clip()
    settings = recipe(data={"pairs": SCENES, "batch_size": 8, "threads": 0, **data}).to_dict()
    values = []
    for cache in (None, tmp_path / "kept", tmp_path / "kept"):
        torch.manual_seed(0)
        objective = CLIPKD(teacher, cache=cache)
        objective.setup(student, settings)
        assert (objective.teacher.clip is None) == (cache is not None)
        assert student.preprocess is not None
        assert student.tokenizer is not None
        reader = Reader(
            Pairs.open(SCENES), objective, student.preprocess, student.tokenizer, 48,
            augment=augment_of(data["augment"]), cycle=data.get("cycle"), threads=0,
        )  # fmt: skip
        batches = reader.batches()
        rows = [next(batches)[0] for _ in range(3)]  # into the third epoch
        batches.close()
        values.append([objective(student, part).parts["fd"].item() for part in rows])
    for live, kept, again in zip(*values, strict=True):
        assert kept == pytest.approx(live, abs=1e-5)
        assert again == kept
    with pytest.raises(InputError, match="of another teacher or of other views"):
        CLIPKD(tiny_clip(seed=9), cache=tmp_path / "kept").setup(student, settings)
    with pytest.raises(InputError, match="of another teacher or of other views"):
        CLIPKD(teacher, cache=tmp_path / "kept", teacher_size=16).setup(student, settings)
    endless = recipe(data={**settings["data"], "augment": "clip", "cycle": None}).to_dict()
    with pytest.raises(InputError, match=r"set data\.cycle"):
        CLIPKD(teacher, cache=tmp_path / "kept").setup(student, endless)


def test_the_fingerprint_is_of_all_that_counts() -> None:
    clip = tiny_clip()
    first = fingerprint(clip)
    assert first == fingerprint(tiny_clip())
    with torch.no_grad():
        clip.tower("image").proj.weight[0, 0] += 1e-6
    assert fingerprint(clip) != first
    other = FrozenTeacher(tiny_clip(), size=24)
    other.prepare(tiny_clip(), {})
    assert other.fingerprint != first


def test_export_is_the_bare_student(tmp_path: Path) -> None:
    clip = run(tmp_path / "run", CLIPKD(teacher_of(), afd=1.0)).train()
    assert clip is not None
    exported = native.load(tmp_path / "run" / "model")
    assert sum(p.numel() for p in exported.parameters()) == sum(p.numel() for p in tiny_clip().parameters())
    held = json.dumps(sorted(CLIPKD(teacher_of()).state_dict()))
    assert "teacher" not in held


def test_bad_arguments() -> None:
    with pytest.raises(InputError, match="gd_form"):
        CLIPKD(gd_form="other")
    with pytest.raises(InputError, match="mask"):
        CLIPKD(mask=1.0)
