"""Opens the released transformers of SVG, SiT, DiT, REPA, LightningDiT and RAE as svgbench's SiT: tensor names and time conventions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from svgbench.errors import BadWeights, unknown
from svgbench.nets.ddpm import EpsilonModel
from svgbench.nets.sit import SiT
from svgbench.releases.shapes import rounding
from svgbench.releases.sizes import arguments_of, compare, sizes_of
from svgbench.weights.files import fill
from svgbench.weights.kinds import looks_like

KINDS = ("svg-dit", "sit", "dit", "repa", "lightningdit", "ddt")
NAMES = (
    ("time.mlp.", "t_embedder.mlp."),
    ("time.frequencies", "t_embedder.W"),
    ("labels.", "y_embedder.embedding_table."),
    ("final.", "final_layer.linear."),
    ("final_norm.", "final_layer.norm_final."),
    ("final_modulation.", "final_layer.adaLN_modulation.1."),
    ("project.", "s_projector."),
)
"""Prefix of our tensor name -> prefix of the releases' name; ``official_names`` renames patches and blocks."""


class NoInitialisation(TorchFunctionMode):
    """A context in which networks are built without initialising their weights; for XL that would take longer than reading the file."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.uniform_, Tensor.normal_, Tensor.zero_):
            return args[0]
        return func(*args, **(kwargs or {}))


def open_transformer(kind: str, state: Mapping[str, Tensor], config: Mapping[str, Any] | None, where: str) -> SiT | EpsilonModel:
    """The frozen network of a release: a velocity model (t = 0 noise, t = 1 data), or for ``dit`` an epsilon model.

    ``config``: the release's constructor arguments, and ``noise_at``: the time, 0 or 1, at which the release has noise (default: 1 for
    REPA, else 0). RAE trains with noise at 1 (its ``stage2/transport/path.py``); its YAML file implies that, its arguments alone do
    not. ``where``: the beginning of error sentences.
    """
    if kind not in KINDS:
        raise unknown("released transformer", kind, KINDS)
    arguments = arguments_of(config, where)
    sizes = sizes_of(kind, state, arguments, where)
    compare(arguments, sizes, where)
    with NoInitialisation():
        model = SiT(**sizes)
    shapes = model.state_dict()
    sources = official_names(kind, sizes, shapes)
    _check_names(kind, state, sources, shapes, where)
    weights = {ours: torch.cat([state[name] for name in names]).reshape(shapes[ours].shape) for ours, names in sources.items()}
    weights = {name: value.to(torch.promote_types(value.dtype, torch.float32)) for name, value in weights.items()}  # at least float32
    _check_tables(model, state, where)
    if arguments.get("noise_at", 1 if kind == "repa" else 0) == 1:
        weights |= from_noise_at_one(model, weights)
    fill(model, weights, where=where, file_names=state)
    model.eval().requires_grad_(False)
    return EpsilonModel(model) if kind == "dit" else model


def official_names(kind: str, sizes: Mapping[str, Any], ours: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Our tensor name -> the release's tensors to concatenate along dimension 0 for it."""
    depth, wide = sizes["depth"], (sizes["wide"] or {}).get("depth", 0)
    blocks = {"": range(depth), "wide.": range(depth, depth + wide)}
    patches = {"": {"svg-dit": "ln1", "ddt": "s_embedder.proj"}.get(kind, "x_embedder.proj"), "wide.": "x_embedder.proj"}
    sources = {}
    for name in ours:
        part = "wide." if name.startswith("wide.") else ""
        first, _, rest = name.removeprefix(part).partition(".")
        if first == "modulation":
            sources[name] = [f"blocks.{i}.adaLN_modulation.1.{rest}" for i in blocks[part]]
        elif first == "patches":
            sources[name] = [f"{patches[part]}.{rest}"]
        elif first == "blocks":
            number, _, inner = rest.partition(".")
            if sizes["mlp"] == "swiglu":
                inner = inner.replace("mlp.fc1.", "mlp.w12.").replace("mlp.fc2.", "mlp.w3.")
            sources[name] = [f"blocks.{blocks[part][int(number)]}.{inner}"]
        else:
            short = name.removeprefix(part)
            sources[name] = [next(theirs + short.removeprefix(beginning) for beginning, theirs in NAMES if short.startswith(beginning))]
    return sources


def from_noise_at_one(model: SiT, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Changed tensors for an exact conversion from time s = 1 - t and prediction noise - data to time t and prediction data - noise.

    The network depends on s only through cos(f s) and sin(f s). Since cos(f (1 - t)) = cos f cos(f t) + sin f sin(f t) and
    sin(f (1 - t)) = sin f cos(f t) - cos f sin(f t), rotating each pair of columns in the first matrix of the time embedding is enough. The
    sign of the velocity is changed in the last layer.
    """
    weight = weights["time.mlp.0.weight"].double()
    drawn = "time.frequencies" in weights
    f = weights["time.frequencies"].double() * 2 * math.pi if drawn else model.time.frequencies.double()
    first, second = weight.chunk(2, dim=1)
    of_cos, of_sin = (second, first) if drawn else (first, second)  # with random frequencies the embedding has the sines first
    turned = (of_cos * f.cos() + of_sin * f.sin(), of_cos * f.sin() - of_sin * f.cos())
    changed = {"time.mlp.0.weight": torch.cat(turned[::-1] if drawn else turned, dim=1).to(weights["time.mlp.0.weight"].dtype)}
    prefix = "" if model.head is model else "wide."
    for name in (f"{prefix}final.weight", f"{prefix}final.bias"):
        value = weights[name].unflatten(0, (model.patch**2, -1)).clone()
        value[:, : model.channels] *= -1  # outputs of a learned variance keep their sign
        changed[name] = value.flatten(0, 1)
    return changed


def _check_names(
    kind: str, state: Mapping[str, Tensor], sources: Mapping[str, list[str]], shapes: Mapping[str, Tensor], where: str
) -> None:
    """Raises BadWeights unless the file has every official name and shape; the error uses the release's names."""
    expected = [name for names in sources.values() for name in names]
    allowed = [*expected, *(name for name in state if _is_table(name) or (kind == "repa" and name.startswith("projectors.")))]
    missing, unexpected = sorted(set(expected) - state.keys()), sorted(state.keys() - set(allowed))
    wrong = [
        f"{name} is {tuple(state[name].shape)}"
        for ours, names in sources.items()
        for name in names
        if name in state and state[name].flatten(1 if state[name].ndim > 1 else 0).shape != _part(shapes[ours], len(names))
    ]
    faults = [f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
              for what, names in (("missing", missing), ("unexpected", unexpected), ("with another shape", wrong)) if names]  # fmt: skip
    if faults:
        kind_found = looks_like(state)
        guess = f"it looks like {kind_found}; " if kind_found else ""
        raise BadWeights(
            f"{where} does not match '{kind}' of {len(expected)} tensors: {'; '.join(faults)}; {guess}give a file of that release."
        )


def _part(tensor: Tensor, parts: int) -> torch.Size:
    """Shape of one of ``parts`` equal parts along dimension 0."""
    return torch.Size((len(tensor) // parts, *tensor.shape[1:]))


def _is_table(name: str) -> bool:
    """Whether a tensor is a fixed position table, which SiT computes itself."""
    return name == "pos_embed" or name.endswith(("rope.freqs_cos", "rope.freqs_sin"))


def _check_tables(model: SiT, state: Mapping[str, Tensor], where: str) -> None:
    """Raises BadWeights when a position table is not the one that SiT computes: a trained or resized table would change the outputs."""
    head = model.head
    tables = {"pos_embed": model.positions}
    for prefix, rotary in (("feat_rope", model.rotary), ("enc_feat_rope", model.rotary), ("dec_feat_rope", head.rotary)):
        if rotary is not None:
            tables |= {f"{prefix}.freqs_cos": rotary[0], f"{prefix}.freqs_sin": rotary[1]}
    for name, value in state.items():
        if _is_table(name):
            table = tables.get(name)
            if table is None or table.numel() != value.numel() or not _same(table, value):
                raise BadWeights(
                    f"{where}: {name} is not the fixed position embedding; only releases with fixed position embeddings are supported."
                )


def _same(table: Tensor, value: Tensor) -> bool:
    """Whether a stored table equals the computed one, within the rounding of the type in which it was stored."""
    return torch.allclose(table, value.float().reshape(table.shape), rtol=0, atol=rounding(value))
