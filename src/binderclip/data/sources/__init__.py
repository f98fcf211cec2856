"""Where pairs are kept: one file a kind of source; `Pairs.open` chooses."""
