"""A small run stage by stage through the store, as a command walks it: each stage can be run alone on finished inputs, in a child that is
killed, and compared by the bytes of its artifact."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from svgbench.config.build import build
from svgbench.config.parse import override
from svgbench.lab.execute import Executor
from svgbench.lab.plan import Node, nodes_of, resolve
from svgbench.lab.store import Store
from svgbench.machine.blocks import Blocks
from svgbench.machine.files import TEMPORARY
from svgbench.machine.runtime import Runtime
from svgbench.metrics.features import extract
from svgbench.metrics.reconstruction import per_image, reconstruction_scores
from svgbench.stages import dense, graph, perception, pictures, samples, statistics

WORDS = ("data.train_images=70", "data.val_images=44", "encoder.card=mae", "autoencoder.residual.layers=1", "autoencoder.residual.width=32",
         "autoencoder.residual.heads=2", "autoencoder.residual.mlp=64", "autoencoder.decoder.base=8", "autoencoder.training.batch=16",
         "autoencoder.training.total_images=32", "autoencoder.training.checkpoint_images=16", "diffusion.training.checkpoint_images=32",
         "autoencoder.loss.adversarial_start_images=16", "autoencoder.loss.discriminator_base=8", "diffusion.training.batch=16",
         "diffusion.training.total_images=80", "diffusion.transformer.width=32", "diffusion.transformer.depth=2", "sampling.count=40",
         "diffusion.transformer.heads=2", "sampling.steps=[3]", "sampling.guidance=[2.0]", "scores.resamples=3", "scores.probe.epochs=3",
         "scores.segmentation.epochs=1")  # fmt: skip
SIZE = 8
"""Items of a block here, so that every stage has several."""


def small_blocks(patch: pytest.MonkeyPatch) -> None:
    """Blocks of ``SIZE`` in all stages, and computations that save their state at every step."""
    for module in (perception, pictures, statistics):
        patch.setattr(module, "BLOCK", SIZE)
    patch.setattr(dense, "EVALUATED", 2)
    patch.setattr(samples, "batch_of", lambda *_: SIZE)
    for function in (extract, per_image, reconstruction_scores):
        patch.setitem(function.__kwdefaults__, "batch", SIZE)
    patch.setattr("svgbench.machine.checkpoints.STEP_SECONDS", 0.0)


class Steps:
    """The nodes of the run by their stages, and the store below ``root``."""

    def __init__(self, root: Path, *words: str, finished: Steps | None = None) -> None:
        """``finished``: the steps whose artifacts are the inputs here."""
        self.root, self._finished = root, finished
        self.nodes = nodes_of(resolve(build(override([*WORDS, *words]), preset="tiny"))) if finished is None else finished.nodes
        self.computed = root / "computed"
        root.mkdir(parents=True, exist_ok=True)

    def node(self, stage: str) -> Node:
        return next(node for node in self.nodes if node.stage == stage)

    def link(self, stage: str) -> None:
        """Makes the finished artifacts of all other stages this store's own."""
        assert self._finished is not None
        for folder in (self._finished.root / "store").iterdir():
            if folder.name != stage and not (self.root / "store" / folder.name).exists():
                (self.root / "store").mkdir(exist_ok=True)
                (self.root / "store" / folder.name).symlink_to(folder)

    def run(self, stage: str) -> bool:
        """Runs a stage of the run on every rank there is, from where it is; what it computed in blocks is noted in ``computed``."""
        runtime = Runtime(device="cpu", threads=1, quiet=True).start()
        executor = Executor({node.key: node for node in self.nodes}, Store(self.root / "store"), runtime, lambda sentence: None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Blocks, "run", _noting(Blocks.run, self.computed))
            made = executor.run(self.node(stage).key)
        runtime.stop()
        return made

    def work(self, stage: str) -> None:
        """The stage's function alone on every rank there is, in the directory where a run of the stage goes on."""
        node, store = self.node(stage), Store(self.root / "store")
        place = store.place(stage, node.key)
        place = place.with_name(f"{place.name}.partial")
        place.mkdir(parents=True, exist_ok=True)
        runtime = Runtime(device="cpu", threads=1, quiet=True).start()
        inputs = {name: store.place(next(n.stage for n in self.nodes if n.key == key), key) for name, key in node.inputs.items()}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Blocks, "run", _noting(Blocks.run, self.computed))
            graph.worker(graph.by_name(stage))(node.slice, inputs, place, runtime)

    def artifact(self, stage: str) -> dict[str, str]:
        """Digests of a finished stage's files, without logs, which hold times; nothing else may lie in its directory but halves of files
        that a kill left there, which the store sweeps at the next use."""
        place = Store(self.root / "store").place(stage, self.node(stage).key)
        files = json.loads((place / "manifest.json").read_text())["files"]
        left = {path.relative_to(place).as_posix() for path in place.rglob("*")}
        assert {name for name in left if not name.startswith(TEMPORARY)} == {*files, "manifest.json"}
        return {name: digest for name, digest in files.items() if name != "log.jsonl"}

    def times_computed(self) -> dict[str, int]:
        """How often each block was begun."""
        lines = self.computed.read_text().splitlines() if self.computed.exists() else []
        return {line: lines.count(line) for line in lines}


def _noting(run: Callable, place: Path) -> Callable:
    def noted(self: Blocks, work: Callable, read: Callable | None = None, **how: object) -> None:
        def counted(items: range, *more: object) -> object:
            with place.open("a") as file:
                file.write(f"{self._label} {items.start}\n")
            return work(items, *more)

        run(self, counted, read, **how)

    return noted
