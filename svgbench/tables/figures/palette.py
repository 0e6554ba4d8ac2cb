"""The colours of rows, the same in figures, curves and the page (``page.css`` holds them too, with brighter ones for a dark page)."""

from __future__ import annotations

LINES = ("#0072b2", "#d55e00", "#009e73", "#b8528f", "#3a94cf", "#a67c00", "#4a4a4a")
"""After Okabe and Ito, darkened to a contrast of 3 to 1 with white."""
