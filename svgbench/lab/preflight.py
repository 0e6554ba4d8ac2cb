"""Cheap failures first: every weights file that a plan will need is found before its first minute of work."""

from __future__ import annotations

from svgbench.config.cards import EncoderCard
from svgbench.lab.plan import Plan
from svgbench.metrics import judges


def check(plan: Plan, missing: set[str]) -> None:
    """Finds (and where a network allows it, fetches) the weights of every encoder and judge that a missing node will open."""
    from svgbench.weights import files as weights

    seen = set()
    for key in missing:
        part = plan.nodes[key].slice
        encoder = part.get("encoder")
        if encoder is not None and encoder["identity"] not in seen:
            seen.add(encoder["identity"])
            weights.resolve(EncoderCard.model_validate(encoder["opened"]), encoder["weights"])
        loss = part.get("autoencoder", {}).get("loss")
        if loss is not None and loss["perceptual"]:
            judges.weights_file("pairs", loss["network"], loss["weights"], setting="autoencoder.loss.weights")
