"""The colours of rows, shared by figures, curves and the page (``page.css`` repeats them, with brighter ones for dark mode)."""

from __future__ import annotations

LINES = ("#0072b2", "#d55e00", "#009e73", "#b8528f", "#3a94cf", "#a67c00", "#4a4a4a")
"""After Okabe and Ito, darkened to a contrast of 3:1 with white."""
