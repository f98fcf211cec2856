"""CLIP4Clip with `pocket`: zero-shot retrieval of filmed photos, montages of two, and their order after fine-tuning.

    python -m benchmarks.video_clip4clip

Clips are filmed from photos (test rows by hash, one a class) by the media kit, written and read again with PyAV, 12 frames
each, and encoded once. Captions: "a photo of a CLASS", of montages "a photo of a CLASS, then a photo of a CLASS".
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.common import digest, record, shared_data
from binderclip.data.hashing import Draws
from binderclip.data.mediakit import pan, zoom
from binderclip.data.video import Video
from binderclip.engine import Encoder
from binderclip.video.clip4clip import MeanP, SeqTransformer, learning_rate, retrieval_metrics, video_text_loss

CLIPS, MONTAGES, FRAMES, SIZE, SEED = 50, 50, 12, 160, 0
STEPS, BATCH, RATE = 100, 24, 1e-3  # pairs a batch: both of their orders are in it


def photos() -> list[tuple[str, Image.Image]]:
    """(class name, photo) of the first CLIPS test rows by hash."""
    import pyarrow.parquet as pq

    table = pq.read_table(shared_data() / "imagenet1k_photos.parquet", columns=["id", "name", "image"])
    rows = []
    for key, name, image in zip(*(table[column].to_pylist() for column in ("id", "name", "image")), strict=True):
        mark = hashlib.sha256(key.encode()).hexdigest()
        if int(mark[:8], 16) % 5 == 0:
            rows.append((mark, name, image if isinstance(image, bytes) else image["bytes"]))
    return [(name, Image.open(io.BytesIO(data)).convert("RGB")) for _, name, data in sorted(rows)[:CLIPS]]


def through_a_file(frames: np.ndarray, folder: Path) -> list[Image.Image]:
    """Writes frames as a video of one a second, and reads it again."""
    import av

    path = folder / "clip.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=1)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = SIZE, SIZE, "yuv420p", 400_000
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        out.mux(stream.encode(None))
    with Video(path) as video:
        return [frame.image for frame in video.frames(1.0)]


def film(number: int, image: Image.Image, frames: int) -> np.ndarray:
    """A pan or a zoom over one photo [frames, SIZE, SIZE, 3]."""
    return (pan, zoom)[number % 2](image, frames=frames, size=SIZE, seed=SEED, key=str(number)).frames


def main() -> None:
    """Measures and records."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    chosen, encoder = photos(), Encoder("pocket")
    names = [name for name, _ in chosen]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        clips = [
            encoder.encode_image(through_a_file(film(i, image, FRAMES), folder)) for i, (_, image) in enumerate(chosen)
        ]
    frames = torch.from_numpy(np.stack(clips))  # [50, 12, D]
    texts = torch.from_numpy(encoder.encode_text([f"a photo of a {name}" for name in names]))
    figures: dict[str, Any] = {}
    single = retrieval_metrics(MeanP().similarity(texts, frames))
    figures["photo_clips"] = {key: round(value, 4) for key, value in single.items()}
    figures["chance_r1"] = round(1 / len(names), 4)

    draws = Draws(SEED, "montage")
    every = [(a, b) for a in range(len(names)) for b in range(len(names)) if a < b]
    pairs = draws.shuffled("pairs", every)
    some = pairs[:MONTAGES]
    montages = montage(frames, some)
    words = [f"a photo of a {names[a]}, then a photo of a {names[b]}" for a, b in some]
    captions = torch.from_numpy(encoder.encode_text(words))
    for key, pooled in (
        ("montages_meanp", montages),
        ("montages_middle_frame", montages[:, FRAMES // 2 : FRAMES // 2 + 1]),
    ):
        figures[key] = {k: round(v, 4) for k, v in retrieval_metrics(MeanP().similarity(captions, pooled)).items()}
    figures |= order(encoder, names, frames, pairs)
    record(
        "video_clip4clip",
        figures,
        wanted="photo-clips R@1 at least 5x chance; meanP above the middle frame on montages; order accuracy above 0.9 after"
        " 100 steps of seqTransf, 0.5 for meanP",
        seed=SEED,
        data=digest(shared_data() / "imagenet1k_photos.parquet"),
        notes=f"pocket; {CLIPS} photo-clips, {MONTAGES} montages of 6 + 6 frames; order: {STEPS} steps of {BATCH} pairs"
        f" in both orders, AdamW {RATE}, pairs of the test are not trained on (their photos are)",
        methods=("clip4clip",),
    )


def montage(frames: torch.Tensor, pairs: list[tuple[int, int]]) -> torch.Tensor:
    """Six frames of one clip, then six of another: [P, 12, D]."""
    half = FRAMES // 2
    return torch.stack([torch.cat([frames[a, :half], frames[b, half:]]) for a, b in pairs])


def order(encoder: Encoder, names: list[str], frames: torch.Tensor, pairs: list[tuple[int, int]]) -> dict[str, Any]:
    """How often the text of the right order scores higher than that of the other, on pairs that were not trained on."""
    held, train = pairs[:100], pairs[100:600]

    def both(some: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        turned = [(b, a) for a, b in some]
        asked = [f"a photo of a {names[a]}, then a photo of a {names[b]}" for a, b in [*some, *turned]]
        return montage(frames, [*some, *turned]), torch.from_numpy(encoder.encode_text(asked))

    clips, texts = both(train)
    test_clips, test_texts = both(held)

    @torch.no_grad()
    def accuracy(pooler: Any, x: torch.Tensor, w: torch.Tensor) -> float:
        S, n = pooler.similarity(w, x), len(x) // 2
        right, wrong = S.diag(), S[torch.arange(2 * n), torch.arange(2 * n).roll(n)]
        return round(float(((right > wrong + 1e-6).double() + 0.5 * ((right - wrong).abs() <= 1e-6)).mean()), 4)

    pooler = SeqTransformer(frames.shape[-1], layers=4)
    optimizer = torch.optim.AdamW(pooler.parameters(), lr=RATE, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2)
    n = len(train)
    for step in range(STEPS):
        draws = Draws(SEED, f"order/{step}")
        rows = torch.tensor([draws.integer(str(i), 0, n - 1) for i in range(BATCH)]).unique()
        rows = torch.cat([rows, rows + n])
        for group in optimizer.param_groups:
            group["lr"] = RATE * learning_rate(step, STEPS)
        loss = video_text_loss(pooler, texts[rows], clips[rows])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(pooler.parameters(), 1.0)
        optimizer.step()

    # The same frames in both orders, so that nothing but their order tells them apart.
    def mirrored(x: torch.Tensor) -> torch.Tensor:
        m = len(x) // 2
        return torch.cat([x[:m], x[:m].roll(FRAMES // 2, dims=1)])

    return {
        "order_seq_transf": accuracy(pooler, mirrored(test_clips), test_texts),
        "order_seq_transf_train": accuracy(pooler, mirrored(clips), texts),
        "order_meanp": accuracy(MeanP(), mirrored(test_clips), test_texts),
        "last_loss": round(float(loss.detach()), 3),
    }


if __name__ == "__main__":
    main()
