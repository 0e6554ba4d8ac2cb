"""svgbench: benchmark and ablation toolkit for the latent spaces of image diffusion models. Importing it imports no torch and no pandas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from svgbench.api import (
        LoadedRun,
        frechet_distance,
        generation_scores,
        load_encoder,
        load_official,
        load_run,
        plan,
        published,
        results,
        run,
        sample,
    )

__version__ = "0.1.0"
__all__ = [
    "LoadedRun",
    "__version__",
    "frechet_distance",
    "generation_scores",
    "load_encoder",
    "load_official",
    "load_run",
    "plan",
    "published",
    "results",
    "run",
    "sample",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from svgbench import api

        return getattr(api, name)
    raise AttributeError(f"module 'svgbench' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
