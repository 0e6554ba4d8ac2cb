"""How the weights in ``encoders/tiny/`` were trained: each family by its own objective, on embedded images.

``svgbench pretrain NAME`` repeats it, bit for bit on one CPU thread with the same library versions. Needs the
extra [pretrain].
"""

from __future__ import annotations

from typing import Any

__all__ = ["pretrain"]


def __getattr__(name: str) -> Any:
    """``pretrain``, imported with torch when first asked for."""
    if name == "pretrain":
        from svgbench.pretraining.recipes import pretrain

        return pretrain
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
