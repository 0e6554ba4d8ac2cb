"""Sizes of a released transformer, from its tensors' shapes, and from its constructor arguments when shapes do not determine them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from svgbench.errors import BadConfig, BadWeights, closest
from svgbench.nets.blocks import MlpKind, hidden_width
from svgbench.weights.kinds import looks_like

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16, 1536: 24, 1792: 28, 2048: 16}
"""Width -> attention heads of the sizes S, B, L, XL, of LightningDiT's 1p0B and 1p6B, and of RAE's wide head."""
VARIANTS = {"S": (384, 12), "B": (768, 12), "L": (1024, 24), "XL": (1152, 28), "1p0B": (1536, 24), "1p6B": (1792, 28)}
"""Size in names like ``DiT-XL/2`` -> width and depth."""
NEEDED = ("t_embedder.mlp.0.weight", "y_embedder.embedding_table.weight", "blocks.0.attn.qkv.weight", "final_layer.linear.weight")
"""Tensors that every release has; the sizes are read from them."""
DIMENSIONS = {
    "pos_embed": 3, "freqs_cos": 2, "q_norm.weight": 1, "embedder.proj.weight": 4, "ln1.weight": 2,
    "t_embedder.mlp.0.weight": 2, "embedding_table.weight": 2, "attn.qkv.weight": 2, "adaLN_modulation.1.weight": 2,
    "mlp.fc1.weight": 2, "mlp.w12.weight": 2, "linear.weight": 2,
}  # fmt: skip
"""End of a tensor's name -> its number of dimensions, for tensors from which sizes are read."""
WIDE_DEPTH = 2
"""Default number of blocks of RAE's head when it is as wide as the backbone, because shapes then do not show where it begins."""
COMPARED = {
    "input_size": "grid", "patch_size": "patch", "in_channels": "channels", "hidden_size": "width", "depth": "depth", "num_heads": "heads",
    "num_classes": "classes", "qk_norm": "qk_norm", "learn_sigma": "learned_sigma",
}  # fmt: skip
"""Constructor argument -> the size that it must agree with."""
CHOICES = {"use_swiglu": ("mlp", "swiglu"), "use_rmsnorm": ("norm", "rms")}
TRAINING_ONLY = (
    "class_dropout_prob", "path_type", "use_cfg", "z_dims", "projector_dim", "encoder_depth", "decoder_hidden_size", "fused_attn",
    "use_checkpoint", "use_gembed", "head_dim",
)  # fmt: skip
"""Arguments that do not change the network's outputs: for training, REPA's projectors and speed."""
OTHERS = ("variant", "mlp_ratio", "wo_shift", "use_rope", "use_pos_embed", "noise_at")


def arguments_of(config: Mapping[str, Any] | None, where: str) -> dict[str, Any]:
    """The constructor arguments in a release's config, which may be nested as in the YAML files of RAE and LightningDiT."""
    if config is None:
        return {}
    if "stage_2" in config:
        return {"noise_at": 1, **arguments_of(dict(config["stage_2"]).get("params", {}), where)}
    if isinstance(config.get("model"), Mapping):
        return arguments_of(config["model"], where)
    renamed = {"use_qknorm": "qk_norm", "in_chans": "in_channels", "model": "variant", "model_type": "variant"}
    arguments = {renamed.get(str(name), str(name)): value for name, value in config.items()}
    known = {*COMPARED, *CHOICES, *TRAINING_ONLY, *OTHERS}
    for name in arguments:
        if name not in known:
            raise BadConfig(f"{where}: config {name} is not an argument of any released transformer.{closest(name, known)}")
    if "variant" in arguments:
        name, _, patch = str(arguments.pop("variant")).rpartition("/")
        size = name.rpartition("-")[2]
        if size not in VARIANTS or not patch.isdigit():
            raise BadConfig(f"{where}: config variant '{name}/{patch}' is not a released size; write it like SiT-XL/2.")
        width, depth = VARIANTS[size]
        arguments = {"hidden_size": width, "depth": depth, "num_heads": HEADS[width], "patch_size": int(patch), **arguments}
    return arguments


def compare(arguments: Mapping[str, Any], sizes: Mapping[str, Any], where: str) -> None:
    """Raises BadConfig for arguments that contradict the tensors."""
    wide = sizes["wide"] or {}
    for name, field in COMPARED.items():
        given, actual = arguments.get(name), sizes[field]
        if isinstance(given, list | tuple):
            given, actual = tuple(given), (actual, wide.get(field, actual))
        if given is not None and given != actual:
            raise BadConfig(
                f"{where}: its tensors have {name} {_plain(actual)}, but the config has {_plain(given)}; correct or omit the config."
            )
    for name, (field, word) in CHOICES.items():
        if name in arguments and bool(arguments[name]) != (sizes[field] == word):
            raise BadConfig(f"{where}: its tensors contradict the config's {name} {arguments[name]}; correct the config or leave it out.")
    positions = {"use_rope": ("rope", "both"), "use_pos_embed": ("sincos", "both")}
    for name, words in positions.items():
        if name in arguments and bool(arguments[name]) != (sizes["position"] in words):
            raise BadConfig(f"{where}: its tensors contradict the config's {name} {arguments[name]}; correct the config or leave it out.")
    if arguments.get("noise_at", 0) not in (0, 1):
        raise BadConfig(f"{where}: config noise_at is the time at which the release has noise, 0 or 1, not {arguments['noise_at']}.")


def _plain(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)


def sizes_of(kind: str, state: Mapping[str, Tensor], arguments: Mapping[str, Any], where: str) -> dict[str, Any]:
    """SiT's constructor arguments, from the shapes, or from the release's arguments when shapes do not determine them."""
    embed = {"svg-dit": "ln1.weight", "ddt": "s_embedder.proj.weight"}.get(kind, "x_embedder.proj.weight")
    needed = (embed, *NEEDED)
    for name in needed:
        if name not in state:
            kind_found = looks_like(state)
            guess = f", it looks like {kind_found}" if kind_found else ""
            raise BadWeights(f"{where} has no {name} and is not a '{kind}'{guess}; give the right kind or another file.")
    for name, value in state.items():
        expected = next((count for end, count in DIMENSIONS.items() if name.endswith(end)), value.ndim)
        if value.ndim != expected or 0 in value.shape:
            raise BadWeights(f"{where}: {name} is {tuple(value.shape)}, which is not a valid shape; fetch the file again.")
    if arguments.get("wo_shift") or state.get("blocks.0.adaLN_modulation.1.weight", state[embed]).shape[0] == 4 * len(state[NEEDED[0]]):
        raise BadWeights(f"{where} has modulation without shifts (wo_shift), which is not supported; use a release with shifts.")
    width, channels = len(state["t_embedder.mlp.0.weight"]), state[embed].shape[1]
    patch = state[embed].shape[2] if state[embed].ndim == 4 else 1
    swiglu, side = "blocks.0.mlp.w12.weight" in state, _side(state, arguments, patch, where)
    sincos, rotary = "pos_embed" in state, any(name.endswith("rope.freqs_cos") for name in state)
    depth, wide = _depths(kind, state, width, arguments, where)
    hidden = state["blocks.0.mlp.w12.weight"].shape[0] // 2 if swiglu else len(state.get("blocks.0.mlp.fc1.weight", ()))
    mlp: MlpKind = "swiglu" if swiglu else "gelu"
    return {
        "channels": channels,
        "grid": side * patch,
        "patch": patch,
        "width": width,
        "depth": depth,
        "heads": _heads(state, arguments, 0, 0, width, where),
        "classes": len(state["y_embedder.embedding_table.weight"]) - 1,
        "mlp_ratio": _ratio(width, hidden, mlp, arguments),
        "qk_norm": "blocks.0.attn.q_norm.weight" in state,
        "norm": "rms" if "blocks.0.norm1.weight" in state else "layer",
        "mlp": mlp,
        "position": ("both" if sincos else "rope") if rotary else "sincos",
        "time": "fourier" if "t_embedder.W" in state else "cosine",
        "learned_sigma": len(state["final_layer.linear.weight"]) == 2 * channels * patch**2,
        "wide": wide and {"width": wide[0], "depth": wide[1], "heads": _heads(state, arguments, 1, depth, wide[0], where)},
    }


def _depths(
    kind: str, state: Mapping[str, Tensor], width: int, arguments: Mapping[str, Any], where: str
) -> tuple[int, tuple[int, int] | None]:
    """Blocks of the backbone, and width and blocks of RAE's head."""
    numbers = {int(number) for name in state if name.startswith("blocks.") and (number := name.split(".")[1]).isdecimal()}
    if numbers != set(range(len(numbers))):
        gap = min(set(range(max(numbers))) - numbers)
        raise BadWeights(f"{where} has blocks up to {max(numbers)} but no block {gap}; fetch it again.")
    if kind != "ddt":
        return len(numbers), None
    head = len(state["x_embedder.proj.weight"]) if "x_embedder.proj.weight" in state else width
    given = arguments.get("depth")
    if head == width:
        depth = len(numbers) - (given[1] if isinstance(given, list | tuple) else WIDE_DEPTH)
    else:
        qkv = [state.get(f"blocks.{i}.attn.qkv.weight") for i in range(len(numbers))]
        depth = sum(weight is not None and weight.shape[1] == width for weight in qkv)
    if not 0 < depth < len(numbers):
        raise BadWeights(f"{where} has {depth} blocks of width {width} before its head and {len(numbers)} in all; fetch it again.")
    return depth, (head, len(numbers) - depth)


def _side(state: Mapping[str, Tensor], arguments: Mapping[str, Any], patch: int, where: str) -> int:
    """Tokens per side, from a position table, or without one from the arguments."""
    tables = [state["pos_embed"].shape[1]] if "pos_embed" in state else []
    tables += [len(value) for name, value in state.items() if name.endswith("rope.freqs_cos")]
    if tables:
        return math.isqrt(tables[0])
    if "input_size" not in arguments:
        raise BadWeights(f"{where} has no position table that gives the size of the latents; give input_size in the config.")
    return int(arguments["input_size"]) // patch


def _heads(state: Mapping[str, Tensor], arguments: Mapping[str, Any], part: int, block: int, width: int, where: str) -> int:
    """Attention heads of the backbone (part 0) or the wide head (part 1): from the QK-norm or the rotary table, else from the arguments,
    else from the named sizes."""
    rope = {0: ("feat_rope", "enc_feat_rope"), 1: ("dec_feat_rope",)}[part]
    tables = (f"blocks.{block}.attn.q_norm.weight", *(f"{name}.freqs_cos" for name in rope))
    head_width = next((state[name].shape[-1] for name in tables if name in state), None)
    if head_width:
        return width // head_width
    given = arguments.get("num_heads")
    if given is not None:
        return int(given[part] if isinstance(given, list | tuple) else given)
    if width not in HEADS:
        raise BadWeights(f"{where} does not determine the number of heads for width {width}; give num_heads in the config.")
    return HEADS[width]


def _ratio(width: int, hidden: int, mlp: MlpKind, arguments: Mapping[str, Any]) -> float:
    """The MLP ratio that gives this hidden width: the argument's or 4 if one fits, otherwise the quotient."""
    for ratio in (arguments.get("mlp_ratio", 4.0), 4.0):
        if hidden in (0, hidden_width(width, ratio, mlp)):  # 0: the tensor is missing, which is reported later with all missing ones
            return float(ratio)
    return hidden / width if mlp == "gelu" else (1.5 * hidden + 1) / width
