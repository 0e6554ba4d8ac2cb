"""The pixel statistics that a model's own files state: mean and standard deviation of images in [0, 1]. No torch.

transformers writes ``preprocessor_config.json`` (or ``processor_config.json``), open_clip ``open_clip_config.json``, timm the part
``pretrained_cfg`` of ``config.json``. A bare file of tensors states none; then only names of files and directories can indicate them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from svgbench.errors import BadConfig, BadWeights

Colours = tuple[float, float, float]
READ = 16 << 20
"""Largest size of such a file in bytes."""


class Statistics(NamedTuple):
    """An image in [0, 1] is normalised as (image - mean) / std, for each colour."""

    mean: Colours
    std: Colours

    @property
    def shown(self) -> str:
        """Mean and std as text."""
        mean, std = (", ".join(f"{value:.3g}" for value in values) for values in self)
        return f"mean [{mean}] and std [{std}]"


HALF = Statistics((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = Statistics((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
SATELLITE = Statistics((0.430, 0.411, 0.296), (0.213, 0.156, 0.143))
USUAL = {"SiglipVisionModel": HALF, "ViTModel": HALF, "CLIPVisionModel": CLIP}
"""Class of transformers -> the statistics of its image processor if no file states others; ImageNet's for all other classes."""
NAMED = (
    (re.compile(r"sat-?493m", re.IGNORECASE), SATELLITE, "DINOv3's training on satellite images (sat493m)"),
    (re.compile(r"augreg", re.IGNORECASE), HALF, "timm's augreg training"),
)
"""Words in names of files and directories that indicate statistics other than the architecture's usual ones."""
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
FILES = (*PROCESSORS, "open_clip_config.json", "config.json")


def stated(folder: Path) -> tuple[Path, Statistics] | None:
    """The file of a directory that states pixel statistics, and the statistics; None if none does."""
    for name in FILES:
        path = folder / name
        if path.is_file():
            statistics = of_file(path)
            if statistics is not None:
                return path, statistics
    return None


def of_file(path: Path) -> Statistics | None:
    """The statistics that one file states, in the format of its name; None if it states none."""
    content = read_json(path)
    if path.name in PROCESSORS:
        return of_processor(content, str(path))
    part = content.get("preprocess_cfg" if path.name == "open_clip_config.json" else "pretrained_cfg")
    if not isinstance(part, Mapping) or part.get("mean") is None or part.get("std") is None:
        return None
    return _checked(part["mean"], part["std"], str(path))


def of_processor(content: Mapping[str, Any], where: str) -> Statistics | None:
    """The normalisation by an image processor of transformers, as statistics of images in [0, 1]. The processor multiplies bytes by
    ``rescale_factor`` (and subtracts 1 with ``rescale_offset``), then subtracts ``image_mean`` and divides by ``image_std``, unless the
    file turns these steps off."""
    content = content.get("image_processor", content) if isinstance(content.get("image_processor"), Mapping) else content
    if not {"image_mean", "image_std", "do_normalize", "do_rescale", "rescale_factor"} & content.keys():
        return None
    factor: Any = content.get("rescale_factor", 1 / 255) if content.get("do_rescale", True) else 1.0
    if content.get("do_normalize", True) is False:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    elif content.get("image_mean") is None or content.get("image_std") is None:
        return None
    else:
        mean, std = _checked(content["image_mean"], content["image_std"], where)
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not math.isfinite(factor) or factor <= 0:
        raise BadConfig(f"{where} states rescale_factor {factor!r}; it must be a number above 0.")
    if content.get("do_flip_channel_order") is True:
        raise BadConfig(f"{where} states do_flip_channel_order: blue, green, red, which no encoder here takes; use another model.")
    whole = 255 * factor  # white after rescaling
    offset = 1.0 if content.get("rescale_offset") is True and content.get("do_rescale", True) else 0.0  # subtracted after rescaling
    if math.isclose(whole, 1, rel_tol=1e-6) and not offset:
        return Statistics(mean, std)
    moved = (tuple(value + offset for value in mean), std)
    return Statistics(*(tuple(value / whole for value in values) for values in moved))  # type: ignore[arg-type]


def stated_for(path: Path) -> tuple[str, Statistics] | None:
    """The source and the pixel statistics of the weights at ``path``, if anything beside the tensors states them: a file that a library
    wrote into the directory, else a word in the last names of the path."""
    folder = path if path.is_dir() else path.parent if path.name in LIBRARY_NAMES else None
    file_and_statistics = stated(folder) if folder is not None else None
    if file_and_statistics is not None:
        return f"{file_and_statistics[0]} states", file_and_statistics[1]
    ends = "/".join(path.parts[-5:])
    return next(((f"its name indicates {says}, with", numbers) for word, numbers, says in NAMED if word.search(ends)), None)


def check_statistics(path: Path, mean: Colours, std: Colours, name: str) -> None:
    """Raises BadWeights for weights trained with pixel statistics other than those of the card ``name``."""
    known = stated_for(path)
    if known is None or all(math.isclose(a, b, abs_tol=2e-3) for one, other in zip(known[1], (mean, std), strict=True)
                           for a, b in zip(one, other, strict=True)):  # fmt: skip
        return
    raise BadWeights(
        f"{path} does not match the card '{name}': {known[0]} {known[1].shown}, the card has {Statistics(mean, std).shown}; open the "
        "model's directory (transformers:DIR, timm:DIR, open_clip:DIR) or write a card with its statistics (--shelf DIR)."
    )


def read_json(path: Path) -> dict[str, Any]:
    """A configuration file of a model."""
    try:
        if not path.is_file() or path.stat().st_size > READ:
            raise ValueError
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadConfig(f"{path} cannot be read as a configuration ({type(error).__name__}); fetch it again.") from None
    if not isinstance(content, dict):
        raise BadConfig(f"{path} holds {type(content).__name__}, not a configuration; fetch it again.")
    return content


LIBRARY_NAMES = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json", "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)  # fmt: skip
"""Names under which libraries write weights: files beside them are of the same model."""


def _checked(mean: Any, std: Any, where: str) -> Statistics:
    triples = []
    for name, values in (("mean", mean), ("std", std)):
        listed = list(values) if isinstance(values, list | tuple) else [values]
        listed = listed * 3 if len(listed) == 1 else listed
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in listed)
        if len(listed) != 3 or not numbers or (name == "std" and min(listed) <= 0):
            bound = " above 0" if name == "std" else ""
            raise BadConfig(f"{where} states the pixel {name} {values!r}; it must be three numbers{bound}.")
        triples.append((float(listed[0]), float(listed[1]), float(listed[2])))
    return Statistics(*triples)
