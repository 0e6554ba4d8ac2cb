"""Cost of a tokenizer (table 7 of arXiv 2510.15301): parameters, operations, latency, throughput and peak memory, of encoder and decoder
separately; for a trained run also the time per sample. Weights and pixels may be random, as their values do not matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from svgbench.backends.open import FrozenEncoder
from svgbench.config.records import Protocol, Score
from svgbench.config.sampling import SamplingProtocol
from svgbench.machine.measure import peak_memory, reset_peak
from svgbench.machine.processor import processor_name
from svgbench.machine.runtime import Runtime
from svgbench.machine.timing import timed
from svgbench.nets.chunks import whole_batches
from svgbench.nets.sampler import generate
from svgbench.nets.tokenizer import Codec, Tokenizer

INTERVAL = "an interval of the median over repetitions"
MILLION, GIGA = 1e6, 1e9
WEIGHT = 4
"""Bytes of a parameter."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Settings of a measurement."""

    batch: int = 64
    """Batch size for throughput and peak memory."""
    repetitions: int = 20
    warm_up: int = 10
    precision: Literal["fp32", "bf16"] = "fp32"


@dataclass(frozen=True)
class Operations:
    """Multiply-adds of one call; each counts as one operation."""

    total: int
    attention: int
    """Those inside attention, which table 7 of the paper leaves out."""


def operations(call: Callable[[], Any]) -> Operations:
    """Multiply-adds of matrix products, convolutions and attention in one call."""
    with FlopCounterMode(display=False) as counter:
        call()
    counts = counter.get_flop_counts().get("Global", {})
    inside = sum(count for op, count in counts.items() if "attention" in str(op) or str(op).endswith(("bmm", "bmm.default")))
    return Operations(sum(counts.values()) // 2, inside // 2)


def parameters_of(tokenizer: Tokenizer | Codec | FrozenEncoder, images: Tensor) -> tuple[int, int]:
    """Numbers of parameters of the encoder and of the decoder (0 if there is none). For a codec, the decoder consists of the modules that
    decoding calls; they are found by a pass on images [B, 3, H, W]."""
    if isinstance(tokenizer, FrozenEncoder):
        return _count(tokenizer.network.model), 0
    frozen = tokenizer.frozen.network.model
    if isinstance(tokenizer, Tokenizer):
        residual = tokenizer.residual_encoder
        return _count(frozen) + (_count(residual) if residual is not None else 0), _count(tokenizer.decoder)
    latents = tokenizer.encode(images[:1])
    decoder = _called(frozen, lambda: tokenizer.decode(latents))
    return _count(frozen) - decoder, decoder


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _called(model: nn.Module, call: Callable[[], Any]) -> int:
    """Number of parameters in the modules of a model that a call runs."""
    called: set[nn.Module] = set()
    handles = [module.register_forward_pre_hook(lambda module, _: called.add(module)) for module in model.modules()]
    try:
        call()
    finally:
        for handle in handles:
            handle.remove()
    return sum(parameter.numel() for parameter in {p for module in called for p in module.parameters(recurse=False)})


@torch.no_grad()
def tokenizer_cost(tokenizer: Tokenizer | Codec | FrozenEncoder, side: int, terms: Terms, runtime: Runtime) -> list[Score]:
    """A tokenizer's scores of the group ``cost`` on images of ``side`` px; for a feature encoder only those of the encoder."""
    device = runtime.torch_device
    images = torch.rand(terms.batch, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    tokenizer.check_side(side)
    with _measuring(runtime, terms):
        encoder, decoder = parameters_of(tokenizer, images)
        scores = [*_part("encoder", encoder, tokenizer.encode, images, terms, runtime)]
        if decoder:
            latents = tokenizer.encode(images[:1]).float().expand(terms.batch, -1, -1, -1).contiguous()
            scores += _part("decoder", decoder, tokenizer.decode, latents, terms, runtime, side=side)
    return scores


@torch.no_grad()
def sampling_cost(model: Any, sampling: SamplingProtocol, terms: Terms, runtime: Runtime) -> list[Score]:
    """Latency and throughput of drawing latents with a transformer, without decoding them."""
    device = runtime.torch_device
    noise = torch.randn(terms.batch, model.channels, model.grid, model.grid, generator=torch.Generator().manual_seed(0)).to(device)
    labels = torch.zeros(terms.batch, dtype=torch.int64, device=device)

    def draw(rows: Tensor) -> Tensor:
        count = len(rows)
        return generate(model, rows, labels[:count], sampling, weak=None, seed=0, indices=torch.arange(count, device=device))

    with _measuring(runtime, terms):
        return list(_times("sampling", draw, noise, terms, runtime, images=f"{model.grid}x{model.grid}latents", way=(sampling.text,)))


@contextmanager
def _measuring(runtime: Runtime, terms: Terms) -> Iterator[None]:
    with whole_batches(), runtime.autocast(terms.precision):
        yield


def _part(
    name: str, parameters: int, call: Callable[[Tensor], Tensor], rows: Tensor, terms: Terms, runtime: Runtime, *, side: int | None = None
) -> Iterator[Score]:
    side = side or rows.shape[-1]
    plain = Protocol(measure="parameters", images=f"{side}px", version="v1")
    yield Score(metric=f"{name}_params_m", value=parameters / MILLION, count=1, protocol=plain)
    work = operations(lambda: call(rows[:1]))
    counted = Protocol(measure="operations", images=f"{side}px", details=("a multiply-add is one",), version="v1")
    detail = {"multiply_adds": work.total, "operations": 2 * work.total, "multiply_adds_of_attention": work.attention}
    yield Score(metric=f"{name}_gflops", value=work.total / GIGA, count=1, protocol=counted, detail=detail)
    yield from _times(name, call, rows, terms, runtime, images=f"{side}px")
    peak, whose = _peak(lambda: call(rows), parameters, runtime.torch_device)
    made = _protocol("peak memory", terms, runtime, f"{side}px", len(rows), (whose,))
    yield Score(metric=f"{name}_peak_gb", value=peak / GIGA, count=len(rows), protocol=made)


def _peak(call: Callable[[], Any], parameters: int, device: torch.device) -> tuple[int, str]:
    """Peak memory of one call in bytes, and what it includes: on a GPU the part's weights and the memory that the call allocates, without
    other networks in memory; on a CPU the entire process."""
    reset_peak(device)
    if device.type != "cuda":
        call()
        return peak_memory(device), "the whole process"
    before = torch.cuda.memory_allocated(device)
    call()
    return peak_memory(device) - before + WEIGHT * parameters, "own weights and one call"


def _times(
    name: str,
    call: Callable[[Tensor], Tensor],
    rows: Tensor,
    terms: Terms,
    runtime: Runtime,
    *,
    images: str,
    way: tuple[str, ...] = (),
) -> Iterator[Score]:
    """Latency at batch 1, and throughput at the batch of ``rows``."""
    device, how = runtime.torch_device, (f"median of {terms.repetitions}", *way)
    one, many = rows[:1].contiguous(), len(rows)
    alone = timed(lambda: call(one), device, warm_up=terms.warm_up, repetitions=terms.repetitions)
    made = _protocol("latency", terms, runtime, images, 1, how)
    detail = {"interval": INTERVAL}
    yield Score(
        metric=f"{name}_latency_ms", value=1e3 * alone.seconds, low=1e3 * alone.low, high=1e3 * alone.high, count=1, protocol=made,
        detail=detail,
    )  # fmt: skip
    together = timed(lambda: call(rows), device, warm_up=terms.warm_up, repetitions=terms.repetitions)
    made = _protocol("throughput", terms, runtime, images, many, how)
    yield Score(
        metric=f"{name}_images_per_s", value=many / together.seconds, low=many / together.high, high=many / together.low, count=many,
        protocol=made, detail=detail,
    )  # fmt: skip


def _protocol(measure: str, terms: Terms, runtime: Runtime, images: str, batch: int, how: tuple[str, ...]) -> Protocol:
    """Names everything that affects a time, so that times of different machines, precisions or batches are never ranked together."""
    host = runtime.describe()
    device = (processor_name(), f"{host['threads']} threads") if host["device"] == "cpu" else (host["device_name"],)
    details = (*device, f"torch {host['torch']}", terms.precision, f"batch {batch}", *how)
    return Protocol(measure=measure, images=images, details=details, version="v1")
