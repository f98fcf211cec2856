"""Two CPU processes that talk over gloo, for the tests of what is gathered across processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn


def in_two_processes(worker: Callable[..., None], place: Path, *args: Any) -> None:
    """Run ``worker(rank, place, *args)`` in two processes of one group; it writes what it found into ``place``."""
    spawn(_enter, args=(worker, place, *args), nprocs=2, join=True)  # type: ignore[no-untyped-call]


def _enter(rank: int, worker: Callable[..., None], place: Path, *args: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}/meet", rank=rank, world_size=2)
    worker(rank, place, *args)
    dist.barrier()
    dist.destroy_process_group()
    # A thread of torch's that still holds a tensor aborts the interpreter's end now and then (pytorch issue 190489).
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
