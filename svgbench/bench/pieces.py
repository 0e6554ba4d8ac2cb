"""The pieces that ``svgbench bench`` measures, in bouts of what is in memory together. On CUDA they fill the eight minutes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from svgbench.bench.clock import BenchPiece, Bout
from svgbench.bench.subject import Subject
from svgbench.config.choices import OBJECTIVES
from svgbench.lab.forecast import scoring
from svgbench.lab.forecast.estimate import update_flops
from svgbench.lab.forecast.memory import on_gpus, peak
from svgbench.machine.measure import Precision, gemm, precision_used, side_of
from svgbench.machine.memory import total_memory
from svgbench.metrics.frechet import Moments, factor, frechet_distance
from svgbench.nets.guidance import predicting

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

    @property
    def _encodings(self) -> tuple[Precision, ...]:
        """Precisions of encoding that are measured: on a CPU the run's own, because bf16 may be emulated there."""
        return ("bf16", "tf32", "fp32") if self.gpu else (self.subject.config.encoder.precision,)

    def _encoding(self) -> Iterator[Bout]:
        """Frozen encoder and residual encoder, in each precision on a GPU."""
        subject, count, kinds = self.subject, self.of("diffusion"), self._encodings
        name, flops = "encode images", count * subject.sizes.encoding

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
        names = ("forward: encode and decode", "update, compiled" if self.compiles else "update")
        own = part.training.precision
        for training in dict.fromkeys(("bf16", own) if self.gpu else (own,)):
            used = self._used(training)

            def prepare(training: str = training, used: Precision = used) -> list[BenchPiece]:
                task, pixels, tokenizer = subject.autoencoder(training, compile=self.compiles), subject.pixels(count), subject.frozen
                facts: dict[str, Any] = {"batch": count, "precision": used}
                return [
                    BenchPiece(
                        name=names[0], call=self._in(used, lambda: tokenizer.decode(tokenizer.encode(pixels))), flops=forward, **facts
                    ),
                    BenchPiece(name=names[1], call=subject.update(task, count), flops=update, sets_pace=True, cpu=True, **facts),
                ]

            planned = self._peak("autoencoder", count, compiled=self.compiles)
            yield Bout(stage="autoencoder", names=names, prepare=prepare, weight=2, flops=update, precision=used, peak=planned)

    def _diffusion(self) -> Iterator[Bout]:
        """The transformer's update and forward pass; on a GPU also eager, with images encoded in each precision, and one rank's share."""
        count = self.of("diffusion")
        if not self.compiles:
            yield self._transformer("update", "forward", count, weight=2, pace=True)
            yield self._online("update, encoding online", count)
            return
        yield self._transformer("update, compiled", "forward, compiled", count, weight=2, compile=True, pace=True)
        yield self._transformer("update, eager", "forward, eager", max(1, count // 2), weight=1)
        yield self._online("update, compiled, encoding online", count)
        if self.gpu:
            yield self._share(min(count, SHARE))

    def _transformer(self, update: str, forward: str, count: int, *, weight: float, compile: bool = False, pace: bool = False) -> Bout:
        """Update and forward pass on latents in memory. ``pace``: plans take their pace from the update; on a GPU, calls in it that wait
        are counted."""
        subject, work = self.subject, self.subject.sizes.transformer

        def prepare() -> list[BenchPiece]:
            task = subject.diffusion(compile=compile)
            step = subject.update(task, count)
            after = partial(_waiting, step) if pace and self.gpu else None
            passed = subject.losses(task, count)
            return [
                self._trained(update, step, count, sets_pace=pace, after=after),
                BenchPiece(name=forward, call=passed, batch=count, flops=count * work.forward, precision=self._transformer_precision),
            ]

        planned = self._peak("diffusion", count, compiled=compile)
        return self._bout((update, forward), prepare, weight, count * work.training, planned)

    def _online(self, update: str, count: int) -> Bout:
        """The update that encodes its images, in each precision of encoding; the transformer is the same."""
        subject, kinds, sizes = self.subject, self._encodings, self.subject.sizes
        names = tuple(f"{update} in {kind}" if len(kinds) > 1 else update for kind in kinds)

        def prepare() -> list[BenchPiece]:
            step = subject.update(subject.diffusion(online=True, compile=self.compiles), count)
            return [
                self._trained(name, self._encoded_in(kind, step), count, first=kind == kinds[0])
                for name, kind in zip(names, kinds, strict=True)
            ]

        flops = count * (sizes.transformer.training + sizes.encoding)
        return self._bout(names, prepare, len(kinds), flops, self._peak("diffusion", count, compiled=self.compiles))

    def _share(self, count: int) -> Bout:
        """The update at the batch of one of eight ranks, where the host limits the speed: eager, compiled, and captured in a graph."""
        subject = self.subject
        variants: dict[str, dict[str, bool]] = {"eager": {}, "compiled": {"compile": True}, "captured": {"compile": True, "capture": True}}
        if OBJECTIVES[subject.config.diffusion.objective].rounds:
            del variants["captured"]  # its updates differ in shape
        names = tuple(f"update, {how}, one of 8 ranks" for how in variants)

        def prepare() -> list[BenchPiece]:
            steps = [subject.update(subject.diffusion(**how), count, capture=how.get("capture", False)) for how in variants.values()]
            return [self._trained(name, step, count) for name, step in zip(names, steps, strict=True)]

        planned = sum(self._peak("diffusion", count, compiled=how.get("compile", False)) for how in variants.values())
        return self._bout(names, prepare, 2, count * subject.sizes.transformer.training, planned)

    def _trained(self, name: str, step: Callable[[], Any], count: int, **facts: Any) -> BenchPiece:
        """Updates of the transformer as a piece."""
        flops = count * self.subject.sizes.transformer.training
        return BenchPiece(name=name, call=step, batch=count, flops=flops, precision=self._transformer_precision, cpu=True, **facts)

    def _bout(
        self, names: tuple[str, ...], prepare: Callable[[], Sequence[BenchPiece]], weight: float, flops: float, planned: float
    ) -> Bout:
        precision = self._transformer_precision
        return Bout(stage="diffusion", names=names, prepare=prepare, weight=weight, flops=flops, precision=precision, peak=planned)

    @property
    def _transformer_precision(self) -> Precision:
        return self._used(self.subject.config.diffusion.training.precision)

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
        subject, sizes, how = self.subject, self.subject.sizes, self.subject.sampling("fp32")
        operations, rounds = sizes.drawing(how.steps, how.guidance) or 0.0, OBJECTIVES[subject.config.diffusion.objective].rounds
        kinds: tuple[Precision, ...] = ("bf16", "fp32") if self.gpu else (subject.config.sampling.precision,)
        single, samples = "one guided evaluation", f"samples, {how.steps} steps, guidance {how.guidance:g}"
        names = [*([] if rounds else [single]), samples, "decode"]  # a round has no single evaluation
        names += [f"{single}, eager"] if self.compiles and not rounds else []

        def pieces(kind: Precision, generator: Any, count: int) -> list[BenchPiece]:
            device, model, sampling = subject.device, generator.model, subject.sampling(kind)
            indices, labels = torch.arange(count), torch.zeros(count, dtype=torch.int64)
            rows = torch.zeros(2 * count, dtype=torch.int64, device=device)
            noise = torch.randn(2 * count, model.channels, model.grid, model.grid, device=device)
            latents, time = noise[:count].contiguous(), torch.full((2 * count,), 0.5, device=device)
            network, eager = predicting(model, sampling.precision), predicting(model.forward, sampling.precision)
            calls_of = {
                single: (lambda: network(noise, time, rows), 2 * sizes.transformer.forward),
                samples: (lambda: generator.images(indices, labels, sampling), operations + sizes.decoding),
                "decode": (lambda: subject.frozen.decode(latents), sizes.decoding),
                f"{single}, eager": (lambda: eager(noise, time, rows), 2 * sizes.transformer.forward),
            }
            return [
                BenchPiece(
                    name=name, call=self._in(kind, call), batch=count, flops=count * flops, precision=kind, sets_pace=name == samples
                )
                for name, (call, flops) in calls_of.items()
                if name in names
            ]

        for kind in kinds:

            def prepare(kind: Precision = kind) -> list[BenchPiece]:
                generator = subject.generator()
                generator.batch = count = self.batch or (generator.batch // 4 if self.gpu and kind == "fp32" else generator.batch)
                return pieces(kind, generator, count)

            count = self.batch or ((64 if kind == "fp32" else 256) if self.gpu else 8)
            flops = count * (operations + sizes.decoding)
            made = peak("samples", sizes) if self.gpu else None
            planned = made.total if made else 0.0
            yield Bout(stage="samples", names=tuple(names), prepare=prepare, weight=1, flops=flops, precision=kind, peak=planned)

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

    @property
    def compiles(self) -> bool:
        """Whether networks are compiled, as the stages do by default on this device."""
        return self.subject.runtime.compiles

    def _used(self, precision: Any) -> Precision:
        return precision_used(self.subject.device, precision)

    def _in(self, kind: Precision, call: Callable[[], Any]) -> Callable[[], Any]:
        """The call without gradients, with images encoded and latents decoded in a precision."""
        return torch.no_grad()(self._encoded_in(kind, call))

    def _encoded_in(self, kind: Precision, call: Callable[[], Any]) -> Callable[[], Any]:
        """The call, with images encoded and latents decoded in a precision."""

        def inside() -> Any:
            with self.subject.products(kind):
                return call()

        return inside

    def _peak(self, stage: str, count: int, *, compiled: bool) -> float:
        """The planned peak of a training at this batch; on a GPU in micro-batches that fit, like a run."""
        made = peak(stage, self.subject.sizes, local=count, compiled=compiled)
        if made is None:
            return 0.0
        return on_gpus(made, 1, total_memory(self.subject.device)).total if self.gpu else made.total


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
