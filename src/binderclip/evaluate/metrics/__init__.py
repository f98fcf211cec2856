"""Metrics as pure functions of numpy arrays; each agrees with an oracle to 1e-8."""
