"""`make docs`: generate the pages that are made from data, then build the site.

Generated: docs/systems.md (the 162 systems and what is done), docs/measurements.md (every benchmark record), a page for each
implemented method, and the embedded model's card. `--check` fails when a committed page is stale.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
RECORDS = ROOT / "benchmarks" / "records"


def systems_page() -> str:
    """The table of systems with their state."""
    from binderclip.cards import cards, coverage, systems

    known, counts = cards(), coverage()
    lines = [
        "# The 162 systems",
        "",
        "Made by `tools/build_docs.py` from `binderclip methods coverage`; the plan of the library, and what is done of it.",
        "",
        f"**{counts['implemented']} implemented, {counts['partial']} partial, of {counts['total']}.**",
        "",
        "| room | system | paper | state |",
        "| --- | --- | --- | --- |",
    ]
    for row in sorted(systems(), key=lambda row: (row["room"], row["name"].lower())):
        card = known.get(row["slug"])
        state = card.status if card else "planned"
        lines.append(f"| {row['room']} | {row['name']} | {row['title'].replace('|', '/')} | {state} |")
    return "\n".join(lines) + "\n"


def measurements_page() -> str:
    """Every record under benchmarks/records."""
    lines = [
        "# Measurements",
        "",
        "Made by `tools/build_docs.py` from `benchmarks/records/*.json`. Each figure was printed by the command beside it,",
        "ours and the peer's in one run on one machine; these machines are noisy, so read ratios rather than seconds.",
    ]
    for path in sorted(RECORDS.glob("*.json")):
        row = json.loads(path.read_text(encoding="utf-8"))
        cpu = row.get("machine", {})
        lines += ["", f"## {row['name']}", "", f"`{row['command']}`", "", f"Wanted: {row.get('wanted', '')}", ""]
        lines += ["| figure | value |", "| --- | --- |"]
        lines += [f"| {key} | {value} |" for key, value in flat(row["figures"])]
        about = [f"{cpu.get('cores')} cores ({cpu.get('cpu') or 'unknown processor'})", str(row.get("date", ""))]
        about += [f"seed {row['seed']}"] if row.get("seed") is not None else []
        about += [f"data {row['data']}"] if row.get("data") else []
        lines += ["", ", ".join(about) + ".", "", str(row.get("notes", ""))]
    return "\n".join(lines).rstrip() + "\n"


def flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested figures as rows ``a.b -> value``."""
    if isinstance(value, dict):
        return [row for key, inner in value.items() for row in flat(inner, f"{prefix}.{key}" if prefix else str(key))]
    if isinstance(value, float):
        return [(prefix, f"{value:.4g}")]
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, list) else str(value)
    return [(prefix, text.replace("|", "/"))]


def card_page() -> str:
    """The embedded model's card, headings one level down, to be included."""
    path = ROOT / "src" / "binderclip" / "assets" / "pocket" / "MODEL_CARD.md"
    if not path.is_file():
        return ""
    body = path.read_text(encoding="utf-8").split("\n", 1)[1]
    return "\n".join("#" + line if line.startswith("#") else line for line in body.splitlines()) + "\n"


PAGES = {"systems.md": systems_page, "measurements.md": measurements_page, "_generated/pocket-card.md": card_page}


def stale() -> list[str]:
    """Generated pages that differ from what is committed."""
    old = {name: (DOCS / name).read_text(encoding="utf-8") if (DOCS / name).is_file() else "" for name in PAGES}
    return [name for name, make in PAGES.items() if make() != old[name]]


def main() -> int:
    """Write the pages; build the site unless only pages were asked for."""
    if "--check" in sys.argv:
        print("\n".join(f"stale: docs/{name}; run `python tools/build_docs.py --pages`" for name in stale()))
        return 1 if stale() else 0
    for name, make in PAGES.items():
        (DOCS / name).parent.mkdir(exist_ok=True)
        (DOCS / name).write_text(make(), encoding="utf-8")
    if "--pages" in sys.argv:
        return 0
    return subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict"], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
