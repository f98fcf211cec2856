"""`make check`: formatting, lint, types, and the rules of the house. Exit code 1 when anything is wrong."""

from __future__ import annotations

import subprocess
import sys

import house

CODE = ["src", "tests", "tools", "benchmarks"]


def main() -> int:
    """Run every check, then say which failed."""
    failed = []
    for name, command in {
        "format": ["ruff", "format", "--check", *CODE],
        "lint": ["ruff", "check", *CODE],
        "types": ["mypy"],
    }.items():
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", *command], cwd=house.ROOT, check=False).returncode:
            failed.append(name)
    for name, rule in house.RULES.items():
        faults = rule()
        print(f"== {name}: {'fine' if not faults else ''}", *faults, sep="\n" if faults else " ", flush=True)
        if faults:
            failed.append(name)
    print(f"check failed: {', '.join(failed)}" if failed else "all checks passed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
