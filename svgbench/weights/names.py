"""Removes the prefixes of training frameworks and wrappers from the names of tensors."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

from svgbench.errors import BadWeights
from svgbench.weights.kinds import looks_like

Names = dict[str, Any]
"""Name -> ``Tensor`` or ``Stored``."""

COUNTERS = {"n_averaged", "initted", "step", "steps", "decay", "num_updates", "iteration", "optimization_step"}
"""Names of scalars that classes for weight averaging store with the weights."""
INSIDE = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module|_fpw_module)\.")
"""Parts of names that torch.compile, FSDP and similar wrappers insert, at any depth."""
WRAPPERS = (
    "module", "model", "net", "network", "_model", "wrapped_model", "ema_model", "online_model", "backbone", "student", "teacher",
    "generator", "dit", "sit", "transformer", "denoiser", "diffusion_model", "autoencoder", "vae", "tokenizer",
)  # fmt: skip
"""Usual prefixes under which training code stores the network of interest among others."""
CHUNKED = re.compile(r"^blocks\.(\d+)\.(\d+)\.")
"""Names of blocks in chunks, as in the training code of DINOv2 and DINOv3."""
DEPTH = 6
"""Largest number of nested wrappers that are removed."""


def plain(tensors: Names, depth: int = DEPTH) -> Names:
    """The tensors of one network with its own names: without prefixes of wrappers and other networks, with blocks numbered
    consecutively."""
    tensors = unwrapped(tensors)
    if depth == 0 or looks_like(tensors):
        return tensors
    parts = roots(tensors)
    inside = [plain(parts[word], depth - 1) for word in WRAPPERS if word in parts]
    known = [names for names in inside if looks_like(names)]
    return known[0] if len(known) == 1 else tensors


def count(value: Any) -> int:
    """Number of elements."""
    return math.prod(value.shape)


def numbers_left_out(tensors: Names) -> Names:
    """The tensors without the scalars of ``COUNTERS``, unless there are no others."""
    weights = {name: value for name, value in tensors.items() if name not in COUNTERS or count(value) > 1}
    return weights or tensors


def unwrapped(tensors: Names, file: Path | None = None) -> Names:
    """Removes ``_orig_mod.`` and similar parts and a common ``module.`` from the names, and numbers blocks consecutively."""
    short = {INSIDE.sub("", name): value for name, value in tensors.items()}
    if len(short) != len(tensors):
        times = Counter(INSIDE.sub("", name) for name in tensors)
        twice = next(name for name in tensors if INSIDE.search(name) and times[INSIDE.sub("", name)] > 1)
        raise BadWeights(f"{file or 'the file'} holds {twice} twice, once with a wrapper's prefix; save only one of them.")
    short = numbers_left_out(short)
    while short and all(name.startswith("module.") for name in short):
        short = {name.removeprefix("module."): value for name, value in short.items()}
    blocks = [name for name in short if name.startswith("blocks.")]
    if blocks and all(CHUNKED.match(name) for name in blocks):
        places = sorted({(int(match[1]), int(match[2])) for name in blocks if (match := CHUNKED.match(name))})
        number = {place: new for new, place in enumerate(places)}
        short = {CHUNKED.sub(lambda match: f"blocks.{number[int(match[1]), int(match[2])]}.", name): value for name, value in short.items()}
    return short


def roots(tensors: Names) -> dict[str, Names]:
    """First part of the names -> rest of the name -> tensor; names without a dot are under the empty string."""
    parts: dict[str, Names] = {}
    for name, value in tensors.items():
        first, dot, rest = name.partition(".")
        parts.setdefault(first if dot else "", {})[rest if dot else name] = value
    return parts
