"""Measure any CLIP: probes on vectors that are made once, numbers with n and an interval, results that are data."""
