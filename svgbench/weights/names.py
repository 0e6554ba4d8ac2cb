"""Names of tensors: without what training codes put in front of them or into them, as the networks themselves call their parts."""

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
"""Names of single numbers that the classes of averages keep beside the weights."""
INSIDE = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module|_fpw_module)\.")
"""What torch.compile, FSDP and similar wrappers put into names, at any depth."""
WRAPPERS = (
    "module", "model", "net", "network", "_model", "wrapped_model", "ema_model", "online_model", "backbone", "student", "teacher",
    "generator", "dit", "sit", "transformer", "denoiser", "diffusion_model", "autoencoder", "vae", "tokenizer",
)  # fmt: skip
"""First words of names under which a training keeps the network that was asked for, beside others."""
CHUNKED = re.compile(r"^blocks\.(\d+)\.(\d+)\.")
"""Blocks in chunks, as DINOv2's and DINOv3's trainings name them."""
DEPTH = 6
"""Wrappers around wrappers that are taken off."""


def plain(tensors: Names, depth: int = DEPTH) -> Names:
    """The tensors of the one network under its own names: without what wrappers put in front, without other networks beside it, its blocks
    numbered in one row."""
    tensors = unwrapped(tensors)
    if depth == 0 or looks_like(tensors):
        return tensors
    parts = roots(tensors)
    inside = [plain(parts[word], depth - 1) for word in WRAPPERS if word in parts]
    known = [names for names in inside if looks_like(names)]
    return known[0] if len(known) == 1 else tensors


def count(value: Any) -> int:
    """Its elements."""
    return math.prod(value.shape)


def numbers_left_out(tensors: Names) -> Names:
    """Without the counters of an average's class, where there is more than those."""
    weights = {name: value for name, value in tensors.items() if name not in COUNTERS or count(value) > 1}
    return weights or tensors


def unwrapped(tensors: Names, file: Path | None = None) -> Names:
    """Without ``_orig_mod.`` anywhere and ``module.`` in front of all, blocks in one row."""
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
    """First word of the names -> what follows it; names without a dot are under the empty word."""
    parts: dict[str, Names] = {}
    for name, value in tensors.items():
        first, dot, rest = name.partition(".")
        parts.setdefault(first if dot else "", {})[rest if dot else name] = value
    return parts
