"""A finished run without its work: every node of a plan has an artifact, whose files are those that its stage must leave."""

from __future__ import annotations

import json
from pathlib import Path

from svgbench.config.records import Manifest, Protocol, Score
from svgbench.lab.configs import configs_of
from svgbench.lab.plan import Node, Plan, make_plan
from svgbench.lab.store import Store, files_of
from svgbench.stages import graph

GRID = "base: smoke\nset:\n  scores.segmentation.enabled: false\n  sampling.steps: [2]\n  sampling.guidance: [1.0]\naxes:\n  seed: [0, 1]\n"


def planned(folder: Path, text: str = GRID) -> Plan:
    """The plan of a grid's file."""
    path = folder / "grid.yaml"
    path.write_text(text)
    return make_plan(configs_of(str(path), "tiny", None, None))


def fill(node: Node, place: Path) -> None:
    """The files that a stage must leave, with nothing of use in them but scores."""
    for name in graph.left(node.stage, node.slice):
        (place / name).write_bytes(f"{name} of {node.key}".encode())
    if graph.by_name(node.stage).scores:
        made = Protocol(measure="psnr", images="val", version="v1")
        row = Score(metric="psnr", value=int(node.key[:4], 16) / 1000, low=0.125, high=99.5, count=48, protocol=made)
        (place / "scores.json").write_text(json.dumps([row.model_dump(mode="json")]))


def finish(plan: Plan, out: Path, *, seconds: float = 1.0, keys: list[str] | None = None) -> Store:
    """Commits an artifact for every node, or for some."""
    store = Store(out / "store")
    for key in keys or plan.nodes:
        node = plan.nodes[key]
        with store.claim(node.stage, key) as partial:
            fill(node, partial)
            files, sizes = files_of(partial)
            version = graph.by_name(node.stage).version
            cost = {"images_seen": 64}
            manifest = Manifest(
                stage=node.stage, version=version, key=key, slice=node.identity, inputs=node.inputs, files=files, sizes=sizes,
                seconds=seconds, cost=cost, finished="now",
            )  # fmt: skip
            store.commit(manifest, partial)
    return store
