"""Stages of the build of ``pocket-vit``."""
