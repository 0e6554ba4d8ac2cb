"""Items about the latents of a run: their batch, their statistics, standardisation and back. Torch is imported when an item needs it."""

from __future__ import annotations

import json

from svgbench.tables.audit.findings import AuditFinding, CannotTell, failed, passed
from svgbench.tables.audit.subjects import AuditedRun

TRIED = 8
"""Images that are encoded to see whether a latent depends on its batch."""
ROUNDING = 1e-4
"""Largest difference between two latents of one image, in standard deviations of the latent, that is taken for rounding."""
ROUND_TRIP_ULPS = 4
"""Largest error of standardising and back, in units of float32's precision at the values involved; the arithmetic allows 3.5."""


def latent_and_batch(run: AuditedRun) -> AuditFinding:
    """Whether an image has the same latent alone and in two batches, by the run's own tokenizer and images."""
    import torch

    from svgbench.stages.tokenizers import to_floats

    images = run.images.val if len(run.images.val) >= len(run.images.train) else run.images.train
    count = min(len(images), TRIED)
    if count < 3:
        raise CannotTell(f"Two batches need 3 images, the run has {count}")
    pixels = to_floats(images.batch(range(count)), run.runtime.torch_device)
    half = 1 + count // 2
    with torch.no_grad():
        alone = run.tokenizer.encode(pixels[:1])
        batches = [run.tokenizer.encode(pixels[:half])[:1], run.tokenizer.encode(torch.cat([pixels[:1], pixels[half:]]))[:1]]
    if not all(bool(one.isfinite().all()) for one in (alone, *batches)):
        return failed("The latent of an image holds NaN or infinity", "train the autoencoder again")
    worst = max(float((one - alone).abs().max()) for one in batches)
    among = f"alone, among {half} and among {1 + count - half} images"
    if worst == 0:
        return passed(f"The latent of an image is the same bit for bit {among}")
    spread = worst / max(float(alone.std()), 1e-30)
    if spread <= ROUNDING:
        return passed(f"The latent of an image differs by rounding {among}, at most {spread:.1g} of its deviation")
    return failed(
        f"The latent of an image differs {among} by up to {spread:.2g} of its deviation",
        "set autoencoder.align to frozen, channel, whiten, token or none",
    )


def latent_statistics(run: AuditedRun) -> AuditFinding:
    """Whether the statistics are of the run's tokenizer and training images."""
    from svgbench.stages.tokenizers import encoder_of

    again = "run the command of the run again with a new --out"
    measured = next(iter(run.entries("statistics")), None)
    if measured is None:
        return failed("The run has no statistics of its latents", "run the command of the run again: it finishes the missing stages")
    about = json.loads((run.place(measured) / "statistics.json").read_bytes())
    name, identity = encoder_of(run.place(run.entry("autoencoder")))
    if about.get("encoder", name) != name:
        return failed(f"The statistics are of '{about['encoder']}', the latents of '{name}'", again)
    if about.get("autoencoder", identity) != identity:
        return failed(f"The statistics are of '{name}' with other weights than the latents", again)
    if measured["stage"] == "imported-statistics" or not about["images"]:
        raise CannotTell("The statistics come from a release, which does not name the images")
    images = run.entry("images")
    if run.manifest(measured).inputs.get("images") != images["key"]:
        return failed("The statistics were measured on other images than the training images", again)
    wanted = json.loads((run.place(images) / "images.json").read_bytes())["counts"]["train"]
    if about["images"] != wanted:
        return failed(f"The statistics are of {about['images']:,} images, the training has {wanted:,}", again)
    return passed(f"{about['channels']} channels of '{name}', measured on all {wanted:,} training images")


def standardise_and_back(run: AuditedRun) -> AuditFinding:
    """Whether standardising a latent and back gives the latent within float32 rounding, with the run's statistics."""
    import torch
    from safetensors.torch import load_file

    from svgbench.nets.latents import LatentStats
    from svgbench.stages.tokenizers import kept_latents

    place = run.place(run.entry("statistics"))
    tensors = load_file(place / "statistics.safetensors")
    mean, std = tensors["mean"].double(), tensors["std"].double()
    wrong = ~(mean.isfinite() & std.isfinite() & (std > 0))
    advice = "train the autoencoder again, or leave the constant channels out (autoencoder.residual.channels)"
    if bool(wrong.any()):
        first = int(wrong.flatten(1).any(1).nonzero()[0]) if wrong.ndim > 1 else int(wrong.nonzero()[0])
        return failed(f"{int(wrong.sum())} of {wrong.numel()} deviations are zero or not finite, the first of channel {first}", advice)
    mean, std = (part[:, None, None] if part.ndim == 1 else part for part in (mean, std))
    kept = kept_latents(place, "train")
    if kept is not None:
        latents, what = torch.from_numpy(kept[:16].copy()), "stored latents"
    else:
        noise = torch.randn(16, *(mean + std).shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        latents, what = (mean + std * noise).float(), "latents drawn with these statistics"
    stats = LatentStats(tensors["mean"], tensors["std"])
    error = (stats.restore(stats.standardise(latents)) - latents).abs().double()
    allowed = torch.finfo(torch.float32).eps * (latents.abs() + mean.abs())
    worst = float((error / allowed.clamp(min=torch.finfo(torch.float32).tiny)).nan_to_num(torch.inf).max())
    if worst > ROUND_TRIP_ULPS:
        return failed(f"Standardising and back changes {what} by {float(error.max()):.2g}, more than float32 rounding", advice)
    return passed(f"Standardising and back changes {what} by at most {float(error.max()):.1g}, float32 rounding")
