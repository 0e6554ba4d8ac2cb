"""Training of the weights in ``encoders/tiny/``: each family with the objective of its paper, on embedded images.

``svgbench pretrain NAME`` repeats it, bit for bit on one CPU thread with the same library versions. It needs the extra [pretrain].
"""

from __future__ import annotations

from typing import Any

__all__ = ["pretrain"]


def __getattr__(name: str) -> Any:
    """Imports ``pretrain``, and with it torch, when it is first used."""
    if name == "pretrain":
        from svgbench.pretraining.recipes import pretrain

        return pretrain
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
