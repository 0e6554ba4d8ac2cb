"""mypy's errors per room against the committed counts, which only fall. ``python tests/helpers/types_ratchet.py`` fails where a room
has more errors than it may have; with ``--write`` lower counts are committed. Cold it takes over 40 s, so ``.ci/run`` calls it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COUNTS = Path(__file__).with_name("type_errors.json")
ERROR = re.compile(r"^svgbench/(\w+)[^:]*:\d+: error: ")


def count(output: str) -> dict[str, int]:
    """Errors per room in what mypy printed; a module beside the rooms counts by its own name."""
    return dict(sorted(Counter(found[1] for line in output.splitlines() if (found := ERROR.match(line))).items()))


def judge(found: dict[str, int], allowed: dict[str, int]) -> tuple[list[str], dict[str, int]]:
    """One sentence for each room with more errors than it may have; and the counts to commit, none above what was allowed."""
    more = [f"svgbench/{room}: {n} type errors, {allowed.get(room, 0)} allowed." for room, n in found.items() if n > allowed.get(room, 0)]
    return more, {room: min(found.get(room, 0), n) for room, n in allowed.items() if found.get(room, 0)}


def main() -> int:
    """The exit status: 0 where no room has more errors than it may have."""
    done = subprocess.run([sys.executable, "-m", "mypy", "--no-error-summary"], capture_output=True, text=True, cwd=ROOT)
    if done.returncode not in (0, 1) or done.stderr:
        sys.stderr.write(done.stdout + done.stderr)
        return 2
    found = count(done.stdout)
    allowed = json.loads(COUNTS.read_text()) if COUNTS.exists() else {**found, "": 1}  # without a file, all that is found may be written
    more, lower = judge(found, allowed)
    if more:
        rooms = tuple(f"svgbench/{sentence.split('/')[1].split(':')[0]}" for sentence in more)
        sys.stderr.write("".join(line + "\n" for line in done.stdout.splitlines() if line.startswith(rooms)))
        sys.stderr.write("\n".join(more) + "\n")
        return 1
    if lower != allowed:
        if "--write" not in sys.argv:
            sys.stderr.write("Fewer type errors than committed: python tests/helpers/types_ratchet.py --write\n")
            return 1
        COUNTS.write_text(json.dumps(lower, indent=1) + "\n")
    sys.stdout.write(f"{sum(found.values())} type errors in {len(found)} rooms, as committed.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
