"""Write open_clip's ids of our 5,000 strings to tests/goldens/tokenizer.npz.

Run in an environment of its own that has open_clip_torch 3.3.0, ftfy, regex and torch:

    python tests/compare/compare_tokenizer.py PATH/TO/torchvision_stub.py
"""

from __future__ import annotations

import hashlib
import runpy
import sys
from pathlib import Path

import numpy as np
from strings import strings


def main(stub: str) -> None:
    """Tokenise with open_clip; rows are stored one after the other with their lengths."""
    runpy.run_path(stub)
    import open_clip

    texts = strings()
    ids = open_clip.get_tokenizer("ViT-B-32")(texts).numpy()  # [N, 77]
    lengths = np.array([int(np.flatnonzero(row == 49407)[-1]) + 1 for row in ids], np.uint8)
    flat = np.concatenate([row[:n] for row, n in zip(ids, lengths, strict=True)]).astype(np.uint16)
    digest = hashlib.sha256("\x1e".join(texts).encode("utf-8", "surrogatepass")).hexdigest()
    out = Path(__file__).parent.parent / "goldens" / "tokenizer.npz"
    np.savez_compressed(out, ids=flat, lengths=lengths, digest=np.array(digest))
    print(f"{len(texts)} strings, {len(flat)} ids, {out.stat().st_size} bytes, strings {digest[:12]}")


if __name__ == "__main__":
    main(sys.argv[1])
