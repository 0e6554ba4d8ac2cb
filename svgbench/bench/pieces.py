"""The pieces that ``svgbench bench`` measures, in bouts of what is in memory together. On CUDA they fill the eight minutes."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from svgbench.bench.clock import BenchPiece, Bout
from svgbench.bench.subject import Subject
from svgbench.config.choices import evaluations
from svgbench.lab.forecast import scoring
from svgbench.lab.forecast.estimate import update_flops
from svgbench.lab.forecast.memory import peak
from svgbench.machine.measure import Precision, float32_products, gemm, precision_used, side_of
from svgbench.metrics.frechet import Moments, factor, frechet_distance

STAGES = ("products", "copies", "images", "encoding", "autoencoder", "diffusion", "attention", "samples", "scores")
"""Parts of the machine and of a run, in the order in which they are measured."""
DEFAULT_BATCH = {"autoencoder": 64, "diffusion": 256}
"""Images of an update on one GPU; on a CPU the preset's batch."""
READ, JUDGED, MOMENTS = 256, 128, 2048
"""Images read at once; images judged at once; width of Inception's features."""
SHARE = 32
"""One of eight GPUs' images of a batch of 256."""


@dataclass(frozen=True)
class BenchSheet:
    """What is measured: ``batch`` replaces every stage's own batch."""

    subject: Subject
    stages: tuple[str, ...]
    batch: int | None = None

    @property
    def gpu(self) -> bool:
        """Whether the comparisons of a GPU belong to it."""
        return self.subject.device.type == "cuda"

    def of(self, stage: str) -> int:
        """Images of an update of a stage."""
        part = self.subject.config.autoencoder if stage == "autoencoder" else self.subject.config.diffusion
        return self.batch or (min(DEFAULT_BATCH[stage], part.training.batch) if self.gpu else part.training.batch)

    def bouts(self) -> list[Bout]:
        """The bouts of the chosen stages."""
        made: dict[str, Callable[[], Iterator[Bout]]] = {
            "products": self._products, "copies": self._copies, "images": self._images, "encoding": self._encoding,
            "autoencoder": self._autoencoder, "diffusion": self._diffusion, "attention": self._attention, "samples": self._samples,
            "scores": self._scores,
        }  # fmt: skip
        return [bout for stage in STAGES if stage in self.stages for bout in made[stage]()]

    # --- the machine ---

    def _products(self) -> Iterator[Bout]:
        device = self.subject.device
        kinds: tuple[Precision, ...] = ("bf16", "tf32", "fp32") if self.gpu else ("fp32", "bf16")

        for kind in kinds:

            def prepare(kind: Precision = kind) -> list[BenchPiece]:
                product = gemm(device, kind)
                return [
                    BenchPiece(name=f"matrix product, {kind}", call=product.call, precision=kind, flops=product.flops, batch=1, first=False)
                ]

            flops = 2.0 * side_of(device) ** 3
            yield Bout(stage="products", names=(f"matrix product, {kind}",), prepare=prepare, weight=0.1, flops=flops, precision=kind)

    def _copies(self) -> Iterator[Bout]:
        device, size = self.subject.device, (1 << 30) if self.gpu else (1 << 26)

        def piece(name: str, source: torch.Tensor, target: torch.Tensor) -> BenchPiece:
            return BenchPiece(name=name, call=lambda: target.copy_(source, non_blocking=True), moved=size, first=False)

        def prepare() -> list[BenchPiece]:
            here = torch.ones(size, dtype=torch.uint8)
            if not self.gpu:
                return [piece("memory copy", here, torch.empty_like(here))]
            there, second = (torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2))
            pinned = here.pin_memory()
            return [
                piece("host to device, pinned", pinned, there), piece("host to device, pageable", here, there),
                piece("device to host, pinned", there, pinned), piece("device to device", there, second),
            ]  # fmt: skip

        yield Bout(stage="copies", names=("copies",), prepare=prepare, weight=0.2)

    def _images(self) -> Iterator[Bout]:
        images, count = self.subject.images, self.batch or READ
        generator = torch.Generator().manual_seed(0)

        def read() -> Any:
            return images.batch(torch.randint(len(images), (count,), generator=generator))

        piece = BenchPiece(
            name="read from the packed store", call=read, batch=count, moved=count * 3 * self.subject.sizes.side**2, first=False
        )
        yield Bout(stage="images", names=(piece.name,), prepare=lambda: [piece], weight=0.2)

    # --- the stages ---

    def _encoding(self) -> Iterator[Bout]:
        """Frozen encoder and residual encoder, in each precision on a GPU."""
        subject, count = self.subject, self.of("diffusion")
        name, flops = "encode images", count * subject.sizes.encoding
        kinds: tuple[Precision, ...] = ("bf16", "tf32", "fp32") if self.gpu else ("fp32",)

        def prepare() -> list[BenchPiece]:
            pixels, encode = subject.pixels(count), subject.frozen.encode
            return [
                BenchPiece(
                    name=name, call=self._in(kind, lambda: encode(pixels)), batch=count, flops=flops or None, precision=kind,
                    sets_pace=kind != "tf32",
                )
                for kind in kinds
            ]  # fmt: skip

        yield Bout(stage="encoding", names=(name,), prepare=prepare, weight=1, flops=flops, precision=kinds[-1])

    def _autoencoder(self) -> Iterator[Bout]:
        subject, count = self.subject, self.of("autoencoder")
        sizes, part = subject.sizes, subject.config.autoencoder
        if sizes.card.kind == "codec":
            return
        update = count * sum(update_flops(sizes, gan=bool(part.loss.adversarial)))
        forward = count * (sizes.encoding + sizes.decoding)
        names = ("forward: encode and decode", "update")
        own = part.training.precision
        for training in dict.fromkeys(("bf16", own) if self.gpu else (own,)):
            used = self._used(training)

            def prepare(training: str = training, used: Precision = used) -> list[BenchPiece]:
                task, pixels, tokenizer = subject.autoencoder(training), subject.pixels(count), subject.frozen
                facts: dict[str, Any] = {"batch": count, "precision": used}
                return [
                    BenchPiece(
                        name=names[0], call=self._in(used, lambda: tokenizer.decode(tokenizer.encode(pixels))), flops=forward, **facts
                    ),
                    BenchPiece(name=names[1], call=subject.update(task, count), flops=update, sets_pace=True, cpu=True, **facts),
                ]

            planned = self._peak("autoencoder", count)
            yield Bout(stage="autoencoder", names=names, prepare=prepare, weight=2, flops=update, precision=used, peak=planned)

    def _diffusion(self) -> Iterator[Bout]:
        count = self.of("diffusion")
        if not self.gpu:
            yield self._transformer("forward", "update", count, weight=2, compile=False, pace=True)
            yield self._transformer(None, "update, encoding online", count, weight=1, compile=False, online=True)
            return
        yield self._transformer("forward, compiled", "update, compiled", count, weight=2, compile=True, watch=True, pace=True)
        yield self._transformer("forward, eager", "update, eager", max(1, count // 2), weight=1, compile=False)
        yield self._transformer(None, "update, compiled, encoding online", count, weight=1, compile=True, online=True)
        yield self._transformer(None, "update, compiled, one of 8 ranks", min(count, SHARE), weight=1, compile=True)

    def _transformer(
        self,
        forward: str | None,
        update: str,
        count: int,
        *,
        weight: float,
        compile: bool,
        online: bool = False,
        watch: bool = False,
        pace: bool = False,
    ) -> Bout:
        """Forward pass and update of the transformer. ``watch``: also one update in which calls that wait for the GPU are counted.
        ``pace``: plans take their pace from the update."""
        subject = self.subject
        part, sizes = subject.config.diffusion, subject.sizes
        used, work = self._used(part.training.precision), sizes.transformer

        def prepare() -> list[BenchPiece]:
            task = subject.diffusion(online=online, compile=compile)
            step = subject.update(task, count)
            trained = BenchPiece(
                name=update, call=step, batch=count, flops=count * work.training, precision=used, sets_pace=pace,
                cpu=True, after=partial(_waiting, step) if watch else None,
            )  # fmt: skip
            passes = [] if forward is None else [
                BenchPiece(name=forward, call=subject.losses(task, count), batch=count, flops=count * work.forward, precision=used)
            ]  # fmt: skip
            return [*passes, trained]

        names = (update,) if forward is None else (forward, update)
        flops = count * (work.training + (sizes.encoding if online else 0))
        planned = self._peak("diffusion", count, compiled=compile)
        return Bout(stage="diffusion", names=names, prepare=prepare, weight=weight, flops=flops, precision=used, peak=planned)

    def _attention(self) -> Iterator[Bout]:
        """The backends of PyTorch's attention at the transformer's size, forward and backward (CUDA)."""
        if not self.gpu:
            return
        from torch.nn.attention import SDPBackend, sdpa_kernel

        network, count, device = self.subject.config.diffusion.transformer, self.of("diffusion"), self.subject.device
        tokens, head = (self.subject.sizes.grid // (network.patch or 1)) ** 2, network.width // network.heads
        backends = {"cuDNN": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION}

        def prepare() -> list[BenchPiece]:
            kind: dict[str, Any] = {"dtype": torch.bfloat16, "device": device, "requires_grad": True}
            q, k, v = (torch.randn(count, network.heads, tokens, head, **kind) for _ in range(3))

            def call(backend: SDPBackend) -> None:
                with sdpa_kernel(backend):
                    torch.autograd.grad(F.scaled_dot_product_attention(q, k, v).sum(), (q, k, v))

            flops = count * 12.0 * tokens**2 * network.width
            return [
                BenchPiece(
                    name=f"attention, {name}",
                    call=partial(call, backend),
                    batch=count,
                    flops=flops,
                    precision="bf16",
                    first=False,
                )
                for name, backend in backends.items()
            ]

        yield Bout(stage="attention", names=tuple(f"attention, {name}" for name in backends), prepare=prepare, weight=0.5, precision="bf16")

    def _samples(self) -> Iterator[Bout]:
        """One step, a batch of images, and its decoding; on a GPU in bf16, and a quarter of it in fp32."""
        subject, sizes, how = self.subject, self.subject.sizes, self.subject.sampling
        calls = evaluations(how.sampler, how.steps, how.guidance, how.schedule, how.shift, how.zero_init) or 0.0
        kinds: tuple[Precision, ...] = ("bf16", "fp32") if self.gpu else ("fp32",)
        names = ("one guided evaluation", f"samples, {how.steps} steps, guidance {how.guidance:g}", "decode")

        def pieces(kind: Precision, generator: Any, count: int) -> list[BenchPiece]:
            device, model = subject.device, generator.model
            indices, labels = torch.arange(count), torch.zeros(count, dtype=torch.int64)
            rows = torch.zeros(2 * count, dtype=torch.int64, device=device)
            noise = torch.randn(2 * count, model.channels, model.grid, model.grid, device=device)
            latents, time = noise[:count].contiguous(), torch.full((2 * count,), 0.5, device=device)
            calls_of = {
                names[0]: (lambda: model(noise, time, rows), 2 * sizes.transformer.forward),
                names[1]: (lambda: generator.images(indices, labels, how), calls * sizes.transformer.forward + sizes.decoding),
                names[2]: (lambda: subject.frozen.decode(latents), sizes.decoding),
            }
            return [
                BenchPiece(
                    name=name, call=self._in(kind, call), batch=count, flops=count * flops, precision=kind, sets_pace=name == names[1]
                )
                for name, (call, flops) in calls_of.items()
            ]

        for kind in kinds:

            def prepare(kind: Precision = kind) -> list[BenchPiece]:
                generator = subject.generator()
                generator.batch = count = self.batch or (generator.batch // 4 if self.gpu and kind == "fp32" else generator.batch)
                return pieces(kind, generator, count)

            count = self.batch or ((64 if kind == "fp32" else 256) if self.gpu else 8)
            flops = count * (calls * sizes.transformer.forward + sizes.decoding)
            made = peak("samples", sizes) if self.gpu else None
            yield Bout(
                stage="samples", names=names, prepare=prepare, weight=1, flops=flops, precision=kind, peak=made.total if made else 0.0
            )

    def _scores(self) -> Iterator[Bout]:
        """Features of the judging network, and a Frechet distance of Inception's width."""
        subject, count = self.subject, self.batch or JUDGED
        flops = count * subject.sizes.extractor

        def judging() -> list[BenchPiece]:
            extractor, images = subject.extractor(), subject.images.batch(range(count))
            used: Precision = "fp32"  # without TF32, as the protocol says
            return [
                BenchPiece(
                    name=f"features of {extractor.name}", call=lambda: extractor(images), batch=count, flops=flops or None, precision=used
                )
            ]

        name = f"features of {subject.config.scores.extractor}"
        yield Bout(stage="scores", names=(name,), prepare=judging, weight=0.7, flops=flops)

        def distance() -> list[BenchPiece]:
            generator = torch.Generator().manual_seed(0)
            first, second = (
                Moments.empty(MOMENTS, subject.device).add(torch.randn(2 * MOMENTS, MOMENTS, generator=generator)).gaussian()
                for _ in range(2)
            )
            root = factor(second.covariance)
            matrix = first.covariance
            return [
                BenchPiece(name=names[0], call=lambda: torch.linalg.eigvalsh(matrix), first=False),
                BenchPiece(name=names[1], call=lambda: frechet_distance(first, second, root), first=False),
            ]

        names = (f"eigvalsh, {MOMENTS} x {MOMENTS}, fp64", f"Frechet distance, {MOMENTS} features")
        yield Bout(stage="scores", names=names, prepare=distance, weight=0.6, flops=3 * scoring.frechet(0, MOMENTS, 0))

    # --- precision and memory ---

    def _used(self, precision: Any) -> Precision:
        return precision_used(self.subject.device, precision)

    def _in(self, kind: Precision, call: Callable[[], Any]) -> Callable[[], Any]:
        """The call without gradients, in a precision."""

        def inside() -> Any:
            with torch.no_grad(), precision_of(kind, self.subject):
                return call()

        return inside

    def _peak(self, stage: str, count: int, *, compiled: bool = False) -> float:
        """The planned peak of a training at this batch."""
        made = peak(stage, self.subject.sizes, local=count, compiled=compiled)
        return made.total if made else 0.0


@contextlib.contextmanager
def precision_of(kind: Precision, subject: Subject) -> Iterator[None]:
    """Context in which a forward pass computes in this precision."""
    products: AbstractContextManager[Any] = contextlib.nullcontext()
    if subject.device.type == "cuda" and kind != "bf16":
        products = float32_products("high" if kind == "tf32" else "highest")
    with products, subject.runtime.autocast("bf16" if kind == "bf16" else "fp32"):
        yield


def _waiting(step: Callable[[], Any]) -> str:
    """How often one update waits for the GPU: PyTorch's warnings about synchronising calls."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    count = sum("synchroniz" in str(one.message) for one in caught)
    return f"{count} synchronising calls in an update"


def chosen(words: Sequence[str] | None) -> tuple[str, ...]:
    """The stages of ``--stage``; all when none is given."""
    return tuple(words) if words else STAGES
