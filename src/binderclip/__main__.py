"""``python -m binderclip``: the same as the command ``binderclip``."""

from __future__ import annotations

from binderclip.cli.main import main

if __name__ == "__main__":
    main()
