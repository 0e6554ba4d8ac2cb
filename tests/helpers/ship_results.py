"""Copies the stage 1 of finished runs to ``encoders/mini/results``, with weights in half precision.

python tests/helpers/ship_results.py runs dinov3-mini dinov3-mini.no-align
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from svgbench.config.records import RUN_FORMAT, unseal
from svgbench.lab.store import Store, files_of
from svgbench.shelf import folder

STAGE = "autoencoder"


def ship(out: Path, run: str) -> str:
    """Ships one run's stage 1; returns a sentence about it."""
    stages = unseal((out / run / "run.json").read_bytes(), RUN_FORMAT)["stages"]
    key = next(stage["key"] for stage in stages if stage["stage"] == STAGE)
    found, place = Store(out / "store").verify(STAGE, key), Store(out / "store").place(STAGE, key)
    there = Store(folder("encoders") / "mini" / "results")
    with there.claim(STAGE, key) as partial:
        for name in found.manifest.files:
            if name == "autoencoder.safetensors":
                state = load_file(place / name)
                (partial / name).write_bytes(save({k: t.half() if t.dtype == torch.float32 else t for k, t in state.items()}))
            else:
                (partial / name).write_bytes((place / name).read_bytes())
        digests, sizes = files_of(partial)
        cost = {**found.manifest.cost, "weights": "rounded to half precision"}
        there.commit(found.manifest.model_copy(update={"files": digests, "sizes": sizes, "cost": cost}), partial)
    return json.dumps({"run": run, "key": key[:32], "bytes": sum(sizes.values())})


if __name__ == "__main__":
    for name in sys.argv[2:]:
        sys.stdout.write(ship(Path(sys.argv[1]), name) + "\n")
