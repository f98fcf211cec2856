"""Training: one loop, objectives as parts, recipes."""
