"""Room ``compress``: a smaller or faster model out of another."""
