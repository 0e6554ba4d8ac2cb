"""The answer to one item of an audit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["pass", "fail", "cannot tell"]


class CannotTell(Exception):
    """Raised by an item that cannot be answered; its text is the reason."""


@dataclass(frozen=True)
class AuditFinding:
    """A verdict with its evidence."""

    verdict: Verdict
    evidence: str
    """One short sentence; for ``cannot tell`` the reason."""
    advice: str = ""
    """What to do, if the item fails."""


def passed(evidence: str) -> AuditFinding:
    """An item that passes."""
    return AuditFinding("pass", evidence)


def failed(evidence: str, advice: str) -> AuditFinding:
    """An item that fails, and what to do."""
    return AuditFinding("fail", evidence, advice)
