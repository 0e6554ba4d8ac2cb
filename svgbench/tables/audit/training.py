"""Items about the trainings of a run: averaged weights, the transformer's width, the decoder's plateau, seeds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import mean
from typing import Any

from svgbench.config.weight_files import is_average
from svgbench.errors import BadInput
from svgbench.tables.audit.findings import AuditFinding, CannotTell, failed, passed
from svgbench.tables.audit.subjects import AuditedRun
from svgbench.tables.pretrainings import weights_of

INITIAL = 0.01
"""Largest share of the first weights in an average that is taken for trained."""
GAIN_DB = 0.3
"""Gain of the last doubling of the images, in dB, below which a training is at its plateau."""
WINDOW = 0.1
"""The l1 at an image count is the mean of the log lines in this last share of it."""
LEAST_LINES = 20
"""Log lines that the plateau needs, so that both windows hold one."""
LEAST_SEEDS = 3


def averaged_weights(run: AuditedRun) -> AuditFinding:
    """Whether averaged weights are used where they exist, and whether the averages are of trained weights."""
    config = run.settings
    for what, file, key in _given_files(run):
        preferred = _preferred(file, what)
        if key != preferred and (is_average(preferred) or "teacher" in preferred):
            return failed(
                f"{what} took '{key}' of {file.name}, which has averaged weights under '{preferred}'",
                f"set its weights_key to {preferred}, or leave it empty",
            )
    trained = [entry for entry in run.entries("diffusion") if entry["stage"] in ("diffusion", "continued-diffusion")]
    if not trained:
        if not config.diffusion.release:
            raise CannotTell("The run has no finished transformer")
        return passed("The released weights are those that its file prefers")
    training = config.diffusion.training
    if not training.ema:
        return passed("No averages exist, because diffusion.training.ema is 0")
    updates = math.ceil(trained[-1]["cost"].get("images_seen", training.total_images) / training.batch)
    start = training.ema**updates
    if trained[-1]["stage"] == "diffusion" and start > INITIAL:
        return failed(
            f"The averages still hold {start:.0%} of the first weights (decay {training.ema:g}, {updates:,} updates)",
            "train longer, or lower diffusion.training.ema",
        )
    return passed(f"Samples use averaged weights (decay {training.ema:g}, {updates:,} updates)")


def _given_files(run: AuditedRun) -> list[tuple[str, Path, str]]:
    """What was read from a given checkpoint, the file, and the key of the weights that were taken."""
    config, stage_1 = run.settings, "autoencoder"
    given: list[tuple[str, str | None, str | None, str]] = []
    if config.diffusion.release:
        given.append(("diffusion.release", config.diffusion.release.file, config.diffusion.release.weights_key, "diffusion"))
    if config.autoencoder.release:
        given.append(("autoencoder.release", config.autoencoder.release.file, config.autoencoder.release.weights_key, stage_1))
    elif config.encoder.weights:
        given.append(("encoder", config.encoder.weights, config.encoder.weights_key, stage_1))
    found = []
    for what, file, asked, provided in given:
        recorded = next((entry["cost"]["weights_key"] for entry in run.entries(provided) if "weights_key" in entry["cost"]), None)
        assert file is not None  # a release and an encoder with weights name a file
        path = Path(file).expanduser()
        if not path.exists():
            raise CannotTell(f"The file of {what} is not here: {path}")
        found.append((what, path, recorded or asked or _preferred(path, what)))
    return found


def _preferred(path: Path, what: str) -> str:
    """The key of the weights that would be taken if nobody chose."""
    from svgbench.weights.files import preferred_key

    try:
        return preferred_key(path)
    except BadInput as error:
        raise CannotTell(f"The weights of {what} are undetermined: {str(error).removesuffix('.')}") from None


def width_of_transformer(run: AuditedRun) -> AuditFinding:
    """Whether the transformer is at least as wide as a token has numbers (channels x patch^2)."""
    about = json.loads((run.place(run.entry("diffusion")) / "sit.json").read_bytes())
    sizes = about["sizes"]
    numbers = sizes["channels"] * sizes["patch"] ** 2
    wide = (sizes.get("wide") or {}).get("width", 0)
    width, field = max(sizes["width"], wide), "diffusion.transformer.width"
    which = "The wide head" if wide > sizes["width"] else "SiT"
    if "head_width" in sizes:  # MAR: the network that sees noised tokens
        which, width, field = "MAR's head", sizes["head_width"], "diffusion.mar.head_width"
    ratio = f"{which} has width {width:,}, a token {numbers:,} numbers ({width / numbers:.2f} to 1)"
    if width >= numbers:
        return passed(ratio)
    if about.get("prediction") == "data":
        return passed(f"{ratio}; it predicts data, which needs no such width (arXiv 2511.13720)")
    other = "" if "head_width" in sizes else ", or use diffusion.prediction=data"
    return failed(ratio, f"set {field} to {numbers:,} or more{other}")


def decoder_at_plateau(run: AuditedRun) -> AuditFinding:
    """Whether the last doubling of the images gained little: 20 log10 of the logged l1 at half the images over that at the end, each the
    mean over the last tenth of these images. A learning rate that falls at the end is part of the gain."""
    entry = next((one for one in reversed(run.entries("autoencoder")) if one["stage"] != "realignment"), None)
    if entry is None:
        raise CannotTell("The run has no finished autoencoder")
    if entry["stage"] in ("adoption", "imported-autoencoder"):
        raise CannotTell("The decoder was trained elsewhere, and its log is not here")
    if "log.jsonl" not in run.manifest(entry).files:
        raise CannotTell("The autoencoder's artifact has no training log")
    lines = [json.loads(line) for line in (run.place(entry) / "log.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line.get("l1", 0) > 0]
    if len(lines) < LEAST_LINES:
        raise CannotTell(f"The training log has {len(lines)} lines with l1, and {LEAST_LINES} are needed")
    total = lines[-1]["images_seen"]
    at_half, at_end = (_lines_at(lines, images) for images in (total / 2, total))
    half, end = (mean(line["l1"] for line in part) for part in (at_half, at_end))
    gain = 20 * math.log10(half / end)
    text = f"The l1 went from {half:.4g} to {end:.4g} over the last {total - total // 2:,} images: {gain:+.2f} dB"
    if gain > GAIN_DB:
        return failed(text, "raise autoencoder.training.total_images, or state that the decoder is not trained to its plateau")
    if any("generator" in line for line in at_end) and not all("generator" in line for line in at_half):
        raise CannotTell(f"{text}; the adversarial loss began in these images and may hide a gain")
    return passed(text)


def _lines_at(lines: list[dict[str, Any]], images: float) -> list[dict[str, Any]]:
    """The log lines in the last tenth of a number of images."""
    found = [line for line in lines if (1 - WINDOW) * images < line["images_seen"] <= images]
    if not found:
        raise CannotTell(f"The training log has no line near {images:,.0f} images")
    return found


def seeds_and_pretraining(run: AuditedRun) -> AuditFinding:
    """Whether intervals over seeds are of three or more seeds that repeat everything that they are used to compare."""
    same = run.seeds
    if not same:
        raise CannotTell("The run has no scores")
    seeds = sorted({record.seed for record in same})
    problems, advice = [], []
    if len(seeds) < LEAST_SEEDS:
        problems.append(f"{len(seeds)} seed{'s' * (len(seeds) > 1)}")
        advice.append(f"run {LEAST_SEEDS - len(seeds)} or more other seeds (--seed)")
    keys = [entry["key"] for record in same if (entry := record.stage("autoencoder")) is not None]
    if len(keys) > len(set(keys)):
        problems.append("the seeds share one trained autoencoder")
        advice.append("leave autoencoder.seed empty, or state that intervals are of SiT alone")
    weights = set().union(*(weights_of(record) for record in same))
    compared = sorted({record.about["encoder"] for record in run.others} - {run.record.about["encoder"]})
    if len(weights) == 1 and compared:
        more = f" and {len(compared) - 1} more" if compared[1:] else ""
        problems.append(f"one pretraining, compared here with {compared[0]}{more}")
        advice.append("state that differences between encoders hold for these weights")
    if problems:
        text = "; ".join(problems)
        return failed(text[0].upper() + text[1:], "; ".join(advice))
    if not weights and compared:
        raise CannotTell("The records do not name the encoder's weights, and runs of another encoder are here")
    pretrained = "several pretrainings of the encoder" if len(weights) > 1 else "no run of another encoder beside them"
    return passed(f"{len(seeds)} seeds that share no trained autoencoder, {pretrained}")
