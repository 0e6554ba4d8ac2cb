"""What the steps share: made-up artifacts at a preset's size, and counting one update (or block) of the project's own stages.

A step runs a stage's real function, as ``stages.graph`` names it, on artifacts of zeros in sparse files. Counting begins and ends where the
stage advances its progress bar, so no private name of a training is used. Images of zeros are read, batched and copied as real ones.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import counting
import numpy as np
import torch
from torch import nn

from svgbench.backends.open import open_network
from svgbench.config import cards
from svgbench.config.build import build as configured
from svgbench.config.parse import override
from svgbench.config.schema import Autoencoder
from svgbench.images import packed
from svgbench.images.store import ImageSet
from svgbench.machine.progress import Bar
from svgbench.machine.runtime import Runtime
from svgbench.nets.sit import SiT
from svgbench.stages import graph
from svgbench.stages.statistics import write as write_statistics
from svgbench.stages.tokenizers import build, describe, open_frozen
from svgbench.stages.transformers import write_description

HOME = counting.HOME
KINDS = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64", torch.int32: "I32", torch.bool: "BOOL", torch.uint8: "U8"}
ONLINE_IMAGES, CACHED_IMAGES = 20_000, 512
"""Sizes of two data sets: latents of the first are too large to keep in memory."""

torch.backends.cuda.enable_cudnn_sdp(False)  # cuDNN is not pretended; flash attention is PyTorch's own and stands in for it


def say(*words: object) -> None:
    """Writes a line."""
    sys.stdout.write(" ".join(str(word) for word in words) + "\n")
    sys.stdout.flush()


def arguments(description: str, **defaults: Any) -> argparse.Namespace:
    """The step's options ``--name value``; flags for defaults of False. ``--set FIELD=VALUE ...`` changes the configuration."""
    parser = argparse.ArgumentParser(description=description)
    for name, default in defaults.items():
        option = "--" + name.replace("_", "-")
        if default is False:
            parser.add_argument(option, action="store_true")
        else:
            parser.add_argument(option, type=int if default is None else type(default), default=default)
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--kernels", type=int, default=0, help="how many kernels to name")
    parser.add_argument("--compile", choices=("default", "on", "off"), default="default")
    return parser.parse_args()


# --- artifacts ---


def write_zeros(path: Path, tensors: Mapping[str, Any]) -> Path:
    """A safetensors file of zeros with these names, shapes and dtypes; sparse."""
    header, offset = {}, 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        header[name] = {"dtype": KINDS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)
    return path


def _once(place: Path, make: Callable[[Path], None]) -> Path:
    """The folder ``place``, made if it is not there yet."""
    if not place.exists():
        unfinished = place.with_name(f"{place.name}.{os.getpid()}")
        unfinished.mkdir(parents=True)
        make(unfinished)
        unfinished.rename(place)
    return place


class Pretended:
    """A configuration of the preset ``paper``, changed by ``words`` (FIELD=VALUE), and the artifacts that its stages need."""

    def __init__(self, *words: str, images: int = CACHED_IMAGES) -> None:
        self.config = configured(override(list(words)), preset="paper")
        self.count, self.side = images, self.config.data.resolution
        self.card = cards.find(self.config.encoder.card, "paper")
        self._part = self._encoder()
        self.json = self.config.model_dump(mode="json")
        self.json["encoder"] = self._part
        self.json["autoencoder"]["loss"]["weights"] = str(self._vgg())

    def _encoder(self) -> dict[str, Any]:
        def make(place: Path) -> None:
            network = open_network(self.card)
            write_zeros(place / "weights.safetensors", network.model.state_dict())

        weights = _once(HOME / f"encoder-{self.card.name}", make) / "weights.safetensors"
        part = self.config.encoder.model_dump(mode="json")
        return part | {
            "opened": self.card.model_dump(mode="json"), "weights": str(weights), "identity": cards.identity(self.card, weights)
        }  # fmt: skip

    def _vgg(self) -> Path:
        def make(place: Path) -> None:
            from torchvision.models import vgg16

            with torch.device("meta"):
                write_zeros(place / "vgg16.safetensors", vgg16(weights=None).state_dict())

        return _once(HOME / "vgg16", make) / "vgg16.safetensors"

    def images(self) -> Path:
        """A packed store of zeros, sparse."""

        def make(place: Path) -> None:
            about = {"counts": {"train": self.count, "val": 64}, "resolution": self.side, "masks": False, "skipped": []}
            about["classes"] = [str(number) for number in range(1000)]
            for split in packed.SPLITS:
                for name, (shape, kind) in packed.rows(about, split).items():
                    np.lib.format.open_memmap(place / name, mode="w+", dtype=kind, shape=shape).flush()
            packed.write(place, about)

        return _once(HOME / f"images-{self.count}-{self.side}", make)

    def autoencoder(self) -> Path:
        """An autoencoder of zeros."""
        settings = Autoencoder.model_validate(self.json["autoencoder"])

        def make(place: Path) -> None:
            card, encoder = open_frozen(self._part, torch.device("cpu"))
            write_zeros(place / "autoencoder.safetensors", build(encoder, settings, self.side, torch.device("cpu")).state_dict())
            about = describe(self._part, card, settings=settings.model_dump(mode="json"), resolution=self.side)
            (place / "autoencoder.json").write_bytes(about)

        return _once(HOME / f"autoencoder-{_short(self._part, self.json['autoencoder'])}", make)

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return self.card.channels + self.config.autoencoder.residual.channels

    def statistics(self) -> Path:
        """Statistics of zeros."""
        from svgbench.nets.latents import LatentStats

        def make(place: Path) -> None:
            stats = LatentStats(torch.zeros(self.channels, dtype=torch.float64), torch.ones(self.channels, dtype=torch.float64))
            write_statistics(stats, place, autoencoder=self.autoencoder(), images=self.count)

        return _once(HOME / f"statistics-{_short(self._part, self.json['autoencoder'])}", make)

    def diffusion(self) -> Path:
        """A trained transformer of zeros."""
        part = self.config.diffusion

        def make(place: Path) -> None:
            sizes = {"channels": self.channels, "grid": self.side // self.card.stride, "classes": 1000}
            sizes |= part.transformer.model_dump(mode="json")
            with torch.device("meta"):
                model = SiT(**sizes)
            write_zeros(place / graph.snapshot(1), model.state_dict())
            write_description(
                place, sizes, [str(n) for n in range(1000)], objective=part.objective, prediction=part.prediction
            )  # fmt: skip

        return _once(HOME / f"diffusion-{_short(self.json['diffusion'])}", make)

    def slice(self, stage: str) -> dict[str, Any]:
        """The stage's slice; of list fields with a node for each entry, the last entry."""
        row, found = graph.by_name(stage), {}
        for path in (*row.slice, *row.each):
            if not graph.holds(self.json, path):
                continue
            value = graph.field(self.json, path)
            *parents, last = path.split(".")
            place = found
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = value[-1] if path in row.each else value
        return found

    def run(self, stage: str, runtime: Runtime) -> dict[str, Any]:
        """Runs the stage in an empty folder and returns its cost."""
        row, out = graph.by_name(stage), HOME / f"out-{os.getpid()}"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        inputs = {name: getattr(self, name)() for name in row.needs}
        try:
            return graph.worker(row)(self.slice(stage), inputs, out, runtime)
        finally:
            shutil.rmtree(out, ignore_errors=True)


def _short(*parts: Any) -> str:
    from svgbench.config.records import digest

    return digest([*parts])[:12]


# --- counting ---


class _Enough(BaseException):
    """Ends a stage once it has been counted."""


class _Watched(Bar):
    """A bar that tells when it advances."""

    advanced: Callable[[str, int], None]

    def advance(self, count: int, **figures: float) -> None:
        super().advance(count, **figures)
        self.advanced(self.label, count)


@dataclass(frozen=True, kw_only=True)
class Watching(Runtime):
    """A runtime on the pretended device whose progress bars tell ``advanced`` (label, units) when they advance."""

    device: str = "cuda"
    quiet: bool = True
    advanced: Callable[[str, int], None] = lambda label, count: None

    @contextmanager
    def progress(self, label: str, total: int, unit: str = "images", done: int = 0) -> Iterator[Bar]:
        """A bar that shows nothing."""
        bar = _Watched(label, total, unit=unit, done=done)
        bar.advanced = self.advanced
        yield bar


@dataclass
class Counted:
    """One update or block: its counts, and memory in bytes of PyTorch's allocator."""

    counts: counting.Counts
    images: int
    peak: int
    reserved: int
    before: int
    encoder_images: int
    read_calls: int
    read_images: int
    milliseconds: float
    """CPU time of this process: launch work of PyTorch alone, without a driver."""

    def show(self, title: str, kernels: int = 0) -> None:
        """Prints everything."""
        counts = self.counts
        say(f"== {title}")
        say(f"launches {counts.launches:,} and {counts.amounts['convolution launches']:,.0f} convolutions;", end_of_graphs(counts))
        say(f"the host waits {counts.waits} times; pageable copies {counts.pageable}")
        amounts = counts.amounts
        sent = {kind: amounts.get(f"copy to the device, {kind}", 0) for kind in ("pinned", "pageable")}
        size = {kind: amounts.get(f"copy to the device, {kind}, bytes", 0) for kind in sent}
        say("host to device:", "; ".join(f"{sent[kind]:.0f} {kind} copies, {size[kind] / 1e6:,.3f} MB" for kind in sent))
        back = {kind: amounts.get(f"copy to the host, {kind}, bytes", 0) for kind in sent}
        say("device to host:", "; ".join(f"{back[kind] / 1e6:,.3f} MB {kind}" for kind in back))
        say(f"images read: {self.read_images} in {self.read_calls} calls; encoder images: {self.encoder_images}")
        kinds = ("bf16", "tf32", "fp32", "fp64")
        say("TFLOP by precision (without fused attention):", ", ".join(f"{kind} {counts.flops(kind) / 1e12:,.3f}" for kind in kinds))
        say(f"peak allocated {self.peak / 1e9:,.2f} GB, reserved {self.reserved / 1e9:,.2f} GB, before {self.before / 1e9:,.2f} GB")
        say(f"CPU time {self.milliseconds:,.0f} ms")
        for line in counts.lines(kernels):
            say(line)


def end_of_graphs(counts: counting.Counts) -> str:
    """Launches of captured graphs."""
    return f"{counts.amounts.get('graph launches', 0):.0f} graphs of {counts.amounts.get('graph nodes', 0):,.0f} nodes"


class Reads:
    """Counts images read from the store, and images that a frozen encoder's network computes."""

    def __init__(self) -> None:
        self.calls = self.images = self.encoded = 0
        name = "rows" if hasattr(ImageSet, "rows") else "batch"  # ``batch`` reads ``rows`` where there are any
        setattr(ImageSet, name, self._counting(getattr(ImageSet, name)))
        nn.modules.module.register_module_forward_pre_hook(self._called)

    def _counting(self, read: Callable[[ImageSet, Any], Any]) -> Callable[[ImageSet, Any], Any]:
        def counted(images: ImageSet, indices: Any) -> Any:
            self.calls, self.images = self.calls + 1, self.images + len(indices)
            return read(images, indices)

        return counted

    def _called(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if type(module).__module__.startswith("timm.layers.patch_embed"):
            self.encoded += len(inputs[0])

    def reset(self) -> None:
        """Forgets what was counted."""
        self.calls = self.images = self.encoded = 0


def count(
    stage: str, pretended: Pretended, *, label: str, warm: int, options: Mapping[str, Any], at_warm: Callable[[], None] = lambda: None
) -> Counted:
    """Runs the stage until the bar ``label...`` has advanced ``warm`` times, and counts until it advances again. ``at_warm`` is called
    before counting begins."""
    reads, seen, result, started = Reads(), [0], [], [0.0]

    def advanced(name: str, images: int) -> None:
        if not name.startswith(label):
            return
        seen[0] += 1
        if seen[0] == warm + 1:
            counts = counting.end()
            spent = 1e3 * (time.process_time() - started[0])
            memory = (torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved(), before[0])
            result.append(Counted(counts, images, *memory, reads.encoded, reads.calls, reads.images, spent))
            raise _Enough
        if seen[0] == warm:
            at_warm()
            gc.collect()
            torch.cuda.reset_peak_memory_stats()
            before[0] = torch.cuda.memory_allocated()
            reads.reset()
            counting.begin()
            started[0] = time.process_time()

    before = [0]
    runtime = Watching(advanced=advanced, **options).start()
    with suppress(_Enough):
        pretended.run(stage, runtime)
    return result[0]


def runtime_options(args: argparse.Namespace) -> dict[str, Any]:
    """Choices of the runtime in the step's options."""
    found = {} if args.compile == "default" else {"compile": args.compile == "on"}
    for name in ("micro_batch", "capture"):
        if getattr(args, name, None):
            found[name] = getattr(args, name)
    return found


def show_graphs() -> None:
    """Prints what torch.compile made."""
    from torch._dynamo.utils import counters

    breaks = sum(counters["graph_break"].values())
    say(f"compiled graphs {counters['stats'].get('unique_graphs', 0)}, graph breaks {breaks}, recompiled frames {recompiled()}")
    for reason, number in counters["graph_break"].items():
        say(f"  break {number} x {reason.splitlines()[0][:200]}")


def recompiled() -> int:
    """How often torch.compile compiled a function again for other inputs."""
    from torch._dynamo.utils import get_compilation_metrics

    return sum(1 for metrics in get_compilation_metrics() if metrics.compile_id and not str(metrics.compile_id).endswith("/0"))


def leave() -> None:
    """Ends the process at once: threads of a stage that was cut short may still wait."""
    sys.stdout.flush()
    os._exit(0)


def gigabytes(tensors: Mapping[str, torch.Tensor]) -> float:
    """Size of tensors in GB."""
    return sum(math.prod(t.shape) * t.element_size() for t in tensors.values()) / 1e9
