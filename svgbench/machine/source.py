"""The commit of svgbench if it runs from a clone."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path


@cache
def commit() -> str | None:
    """The checked-out commit of the clone around this package; None if it was installed without one. Git itself is not needed."""
    return commit_at(Path(__file__).parent.parent.parent)


def commit_at(clone: Path) -> str | None:
    """The checked-out commit of a clone or a work tree, 40 hex digits; None if it cannot be read."""
    try:
        git = clone / ".git"
        if git.is_file():  # a work tree: a pointer to its directory
            git = (clone / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()).resolve()
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if head.startswith("ref: "):
            head = _resolved(git, head.removeprefix("ref: "))
    except (OSError, ValueError):
        return None
    return head if re.fullmatch(r"[0-9a-f]{40,64}", head) else None


def _resolved(git: Path, name: str) -> str:
    """The commit of a branch, stored in a separate file or as a line of ``packed-refs``."""
    shared = git / "commondir"
    places = [git, *([(git / shared.read_text(encoding="utf-8").strip()).resolve()] if shared.is_file() else [])]
    for place in places:
        if (place / name).is_file():
            return (place / name).read_text(encoding="utf-8").strip()
    packed = places[-1] / "packed-refs"
    lines = packed.read_text(encoding="utf-8").splitlines() if packed.is_file() else []
    return next((line.split()[0] for line in lines if line.endswith(f" {name}")), "")
