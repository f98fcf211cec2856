"""Towers and what travels with them; importing this package imports no torch."""
