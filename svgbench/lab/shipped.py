"""Results that are shipped with svgbench, so that a first run trains only what it asks about.

They are artifacts like those of a store, in ``encoders/mini/results``, and are found by the same keys: a run with any other setting trains
its own. Before a plan runs, those that it needs are copied into its store.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from svgbench.errors import Occupied
from svgbench.lab.store import LOCK_POLL_SECONDS, Found, Store, files_of
from svgbench.machine.files import guarded
from svgbench.shelf import folder
from svgbench.stages import graph

if TYPE_CHECKING:
    from svgbench.lab.plan import Node

OFF = "SVGBENCH_TRAIN_ALL"
"""Environment variable that, when it is set, leaves shipped results unused."""
COPYING_SECONDS = 60.0
"""How long a process waits while another one copies the same artifact."""


def shipped() -> Store:
    """The shipped artifacts, as a store that is only read."""
    return Store(folder("encoders") / "mini" / "results")


def look(node: Node) -> Found | None:
    """The shipped artifact of a node, None if there is none."""
    if os.environ.get(OFF) or not shipped().place(node.stage, node.key).is_dir():
        return None
    return shipped().look(node.stage, node.key, (graph.by_name(node.stage).version, node.identity, node.inputs))


def install(nodes: Iterable[Node], store: Store) -> None:
    """Copies the shipped artifacts of these nodes into a store that lacks them. Raises Occupied if another process holds one for long."""
    wanted = [node for node in nodes if look(node) is not None and store.manifest(node.stage, node.key) is None]
    if not wanted:
        return
    with store.in_use():
        for node in wanted:
            end = time.monotonic() + COPYING_SECONDS
            while store.manifest(node.stage, node.key) is None:
                try:
                    _copy(node, store)
                except Occupied:
                    if time.monotonic() >= end:
                        raise
                    time.sleep(LOCK_POLL_SECONDS)


def _copy(node: Node, store: Store) -> None:
    found, place = shipped().verify(node.stage, node.key), shipped().place(node.stage, node.key)
    with store.claim(node.stage, node.key) as partial:
        if store.manifest(node.stage, node.key) is None:
            for name in found.manifest.files:
                with guarded(partial / name):
                    shutil.copyfile(place / name, partial / name)
            store.commit(found.manifest, partial)


def ship(store: Store, stage: str, key: str) -> int:
    """Adds a finished artifact of a store to the shipped ones, its float32 weights rounded to half precision; returns its size in bytes.

    What later computes with it gives other bits than with the weights of the store, so a preset's published numbers must come from the
    shipped ones. Needs torch.
    """
    import torch
    from safetensors.torch import load_file, save

    found, place, there = store.verify(stage, key), store.place(stage, key), shipped()
    with there.claim(stage, key) as partial:
        for name in found.manifest.files:
            content = (place / name).read_bytes()
            if name.endswith(".safetensors"):
                state = load_file(place / name)
                content = save({k: tensor.half() if tensor.dtype == torch.float32 else tensor for k, tensor in state.items()})
            (partial / name).write_bytes(content)
        digests, sizes = files_of(partial)
        cost = {**found.manifest.cost, "weights": "rounded to half precision"}
        there.commit(found.manifest.model_copy(update={"files": digests, "sizes": sizes, "cost": cost}), partial)
    return sum(sizes.values())
