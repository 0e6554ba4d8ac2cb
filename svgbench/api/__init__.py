"""The functions of ``import svgbench``: encoders, released models, runs, plans, scores. Each imports its dependencies when called."""

from svgbench.api.models import load_encoder, load_official, sample
from svgbench.api.runs import LoadedRun, load_run, plan, run
from svgbench.api.scores import frechet_distance, generation_scores, published, results

__all__ = [
    "LoadedRun",
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
