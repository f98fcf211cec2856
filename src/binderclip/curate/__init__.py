"""Better data before training: captions rewritten, rows chosen."""
