"""The harness that compares a room's methods on equal terms: same splits, seeds and machine, and labels it alone holds."""

from binderclip.evaluate.bench.run import Result, bench
from binderclip.evaluate.bench.summary import summary

__all__ = ["Result", "bench", "summary"]
