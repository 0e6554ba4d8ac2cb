"""Every stage of a small run of the preset ``tiny`` on the pretended device: does each tensor lie where it is used?

A stage that fails with torch's error (a device mismatch, a function that needs values) is a FAIL. A stage that notices that there are no
values ends with the project's own error: it has come that far, which is printed. Its artifact is then made on the CPU for later stages.
"""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import counting
import torch
from common import HOME, Watching, arguments, leave, say

import svgbench
from svgbench.config.build import build as configured
from svgbench.config.parse import override
from svgbench.errors import SvgbenchError
from svgbench.lab.plan import nodes_of, resolve
from svgbench.stages import graph

SMALL = (
    "data.train_images=96", "data.val_images=32", "autoencoder.training.total_images=32", "autoencoder.training.batch=8",
    "diffusion.training.total_images=32", "diffusion.training.batch=8", "sampling.count=32", "sampling.steps=[2]",
    "sampling.guidance=[1.0,2.0]", "scores.resamples=3",
)  # fmt: skip
args = arguments(__doc__)
counting.LIBRARY.pretend_conditions(1)  # a condition that the host asks for (is everything finite?) holds


def without_values(function: Callable[..., Any], shapes: Callable[[torch.Tensor], Any]) -> Callable[..., Any]:
    """cuSOLVER is not pretended: results of the right shape on the device."""
    return lambda a, *rest, **more: shapes(a) if a.device.type == "cuda" else function(a, *rest, **more)


torch.linalg.eigvalsh = without_values(torch.linalg.eigvalsh, lambda a: torch.empty_like(a[..., 0]))
torch.linalg.eigh = without_values(torch.linalg.eigh, lambda a: (torch.empty_like(a[..., 0]), torch.empty_like(a)))

place = HOME / "smoke"
shutil.rmtree(place, ignore_errors=True)
folders: dict[str, Path] = {}
failed = 0
for node in nodes_of(resolve(configured(override([*SMALL, *args.set]), preset="tiny"))):
    row, out = graph.by_name(node.stage), place / node.key[:12]
    folders[node.key] = out
    inputs = {name: folders[key] for name, key in node.inputs.items()}
    for device in ("cuda", "cpu") if row.networks else ("cpu",):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        counting.begin()
        try:
            graph.worker(row)(node.slice, inputs, out, Watching(device=device).start())
            told = f"ok, {counting.end().launches:,} launches" if device == "cuda" else ""
        except SvgbenchError as error:
            told = f"without values after {counting.end().launches:,} launches: {error}"
        except Exception as error:
            counting.end()
            failed += 1
            package = f"{Path(svgbench.__file__).parent}/"
            where = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(package)]
            line = f"{where[-1].filename.removeprefix(package)}:{where[-1].lineno}" if where else "?"
            told = f"FAIL at {line}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if told:
            say(f"{node.stage} ({device}): {told[:300]}")
        if told.startswith("ok"):
            break
shutil.rmtree(place, ignore_errors=True)
say(f"{failed} failed")
leave()
