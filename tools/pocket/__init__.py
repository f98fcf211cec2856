"""Build of the embedded model ``pocket``; run ``tools/build_pocket.py``."""
