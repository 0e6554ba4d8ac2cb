"""``doctor``: what this machine has, what is missing, and how to get it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from pathlib import Path
from typing import Annotated

import typer

from svgbench.cli.console import table_of
from svgbench.config import cards
from svgbench.config.cards import EncoderCard
from svgbench.shelf import folder, read_yaml
from svgbench.tables.table import Table

PACKAGES = {
    "torch": "", "torchvision": "", "timm": "", "diffusers": "", "torch-fidelity": "",
    "transformers": "encoders", "open_clip_torch": "encoders", "lightly": "pretrain", "lpips": "lpips", "pyarrow": "data",
}  # fmt: skip


def doctor(out: Annotated[Path, typer.Option("--out", help="Where runs would be kept.")] = Path("runs")) -> None:
    """What this machine has: processors, GPU, disk, packages, weights; for what is missing, where it comes from and under which licence."""
    table_of(Table("Machine", ["what", "found"], _machine(out)))
    table_of(Table("Packages", ["package", "version", "how to get it"], [_package(name, extra) for name, extra in PACKAGES.items()]))
    rows = [_weights(card) for card in sorted(cards.load_cards().values(), key=lambda c: (c.preset != "tiny", c.family, c.name))]
    judges = read_yaml(folder("reports") / "extractors.yaml")
    table_of(Table("Judging networks", ["name", "here", "licence", "file", "where it comes from"], [
        [name, *_judge(facts)] for kind in judges.values() for name, facts in kind.items()
    ], ["hand a file over: --set scores.extractor_weights=FILE (inception), --set scores.lpips_weights=FILE (lpips)"]))  # fmt: skip
    note = "a file you have already: --weights FILE; nothing is fetched before it is needed"
    table_of(Table("Encoder weights", ["card", "here", "licence", "where they come from"], rows, [note]))


def _machine(out: Path) -> list[list[str]]:
    place = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    disk = shutil.disk_usage(place)
    rows = [
        ["python", platform.python_version()],
        ["processors", f"{os.cpu_count()}"],
        ["disk free", f"{disk.free / 1e9:.0f} GB at {place}"],
    ]
    if not os.access(place, os.W_OK):
        rows.append(["--out", f"{place} cannot be written; give another --out"])
    if importlib.util.find_spec("torch"):
        import torch

        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        rows.append(["GPU", ", ".join(gpus) or "none: the tiny preset runs on the CPU, small and paper need one"])
    return rows


def _package(name: str, extra: str) -> list[str]:
    try:
        return [name, importlib.metadata.version(name), ""]
    except importlib.metadata.PackageNotFoundError:
        return [name, "missing", f"pip install 'svgbench[{extra}]'" if extra else f"pip install {name}"]


def _judge(facts: dict[str, str]) -> list[str]:
    if "shelf" in facts:
        here = (folder("encoders") / facts["shelf"]).is_file()
        return ["yes" if here else "missing: reinstall svgbench", facts["licence"], facts["shelf"], "shipped"]
    return ["no", facts["licence"], facts["file"], facts["source"]]


def _weights(card: EncoderCard) -> list[str]:
    weights = card.weights
    if weights.file:
        here = "yes" if (folder("encoders") / weights.file).is_file() else "missing: reinstall svgbench"
        return [card.name, here, card.licence, "shipped"]
    cached = (
        Path(os.environ.get("HF_HOME", Path.home() / ".cache/huggingface")) / "hub" / f"models--{(weights.hub or '').replace('/', '--')}"
    )
    return [card.name, "in the cache" if weights.hub and cached.is_dir() else "no", card.licence, weights.hub or card.origin]
