"""Images, weights and packages that a run needs: whether they are on this machine, where to get them, and their licences.

Only looks for files: installs, downloads and opens nothing. No torch.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from svgbench.config import cards
from svgbench.config.backends import BACKENDS
from svgbench.config.schema import RunConfig
from svgbench.config.scoring import SPACES
from svgbench.errors import BadData
from svgbench.lab.forecast.sizes import Sizes, published
from svgbench.metrics import judges
from svgbench.shelf import folder, read_yaml
from svgbench.stages import graph

EXTRAS = {
    "torch": "", "torchvision": "", "torch-fidelity": "", **{row.package: row.extra for row in BACKENDS.values() if row.package},
    "lightly": "pretrain", "lpips": "lpips",
    "pyarrow": "data", "matplotlib": "figures", "scikit-learn": "figures", "onedl-mmsegmentation": "seg",
}  # fmt: skip
"""Package -> the extra of svgbench that installs it; empty for dependencies of svgbench itself."""
DRIVER = Path("/proc/driver/nvidia/gpus")
"""Where NVIDIA's driver lists its GPUs (Linux)."""
REFERENCES = "ADM's statistics: https://github.com/openai/guided-diffusion/tree/main/evaluations; --set scores.reference=FILE.npz"
"""Source of the usual reference statistics."""


@dataclass(frozen=True)
class Need:
    """One requirement."""

    what: str
    here: bool
    where: str
    """Where it is, or how to get it."""
    licence: str = ""
    optional: bool = False
    """Whether a run works without it and only omits a score."""

    @property
    def state(self) -> str:
        """``yes``, ``missing``, or ``not given`` for an optional one."""
        return "yes" if self.here else "not given" if self.optional else "missing"


def needs_of(sizes: Sizes) -> list[Need]:
    """All images, weights and packages that a run of these sizes opens."""
    config = sizes.config
    needs = [_images(config), weights_of(sizes.card, config.encoder.weights)]
    if sizes.teacher:
        needs.append(weights_of(sizes.teacher, config.diffusion.representation.encoder.weights))
    return [*needs, *_judges(sizes), *_datasets(config), *_reference(config), *_packages(sizes)]


def left_out(config: RunConfig) -> list[str]:
    """Scores that a run omits, each with the setting that would add it."""
    if config.data.drawn:  # it has masks, and no published numbers to compare with
        return []
    plain = config.model_dump(mode="json")
    wanted = [(facts["scores"], facts["setting"]) for facts in _of_scores(plain)]
    wanted += [("FD on DINOv2's features", "scores.second_extractor"), ("FDr6", "scores.fdr6")]
    wanted += [("samples against ADM's statistics", "scores.reference")]
    return [f"{score} ({setting})" for score, setting in wanted if _given(plain, setting) is None]


def weights_of(card: cards.EncoderCard, given: str | None = None) -> Need:
    """A card's weights: the given file, that of the shelf, or that in the Hugging Face cache."""
    what, pins = f"weights of {card.name}", card.weights
    if given:
        return Need(what, Path(given).expanduser().exists(), given, card.licence)
    shipped = cards.weights_file(card)
    if shipped is not None:
        here = shipped.exists()
        return Need(what, here, "shipped" if here else "reinstall svgbench", card.licence)
    if pins.hub is None:
        return Need(what, False, f"{card.origin}; give it by --weights FILE", card.licence)
    cached = _cached(pins.hub, pins.hub_file or "model.safetensors", pins.revision)
    advice = f"{pins.hub_file or 'model.safetensors'} of https://huggingface.co/{pins.hub}, fetched when needed, or --weights FILE"
    return Need(what, cached is not None, str(cached) if cached else advice, card.licence)


def judge_of(kind: str, name: str, given: str | None, setting: str, *, optional: bool = False) -> Need:
    """A judging network's weights: the given file, or that of the shelf."""
    facts = judges.row(kind, name)
    what = f"weights of {name} ({setting.rpartition('.')[0]})"
    if given:
        return Need(what, Path(given).expanduser().is_file(), given, facts["licence"], optional)
    if "shelf" in facts:
        here = (folder("encoders") / facts["shelf"]).is_file()
        return Need(what, here, "shipped" if here else "reinstall svgbench", facts["licence"], optional)
    return Need(what, False, f"{facts['file']} of {facts['source']}; --set {setting}=FILE", facts["licence"], optional)


def package(name: str) -> Need:
    """An installed package, or how to install it."""
    try:
        return Need(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        extra = EXTRAS[name]
        return Need(name, False, f"pip install 'svgbench[{extra}]'" if extra else f"pip install {name}")


def gpus() -> list[str]:
    """Names of the GPUs that NVIDIA's driver lists; importing torch would take seconds."""
    names = []
    for about in sorted(DRIVER.glob("*/information")):
        lines = dict(line.split(":", 1) for line in about.read_text().splitlines() if ":" in line)
        names.append(lines.get("Model", "a GPU").strip())
    return names


def _images(config: RunConfig) -> Need:
    source = config.data.source
    if config.data.drawn:
        return Need(f"images: {source}", True, "drawn from a seed", "Apache-2.0")
    facts = published(source)
    if facts is not None:
        return Need(f"images: {facts['title']}", False, f"{facts['source']}; {facts['setting']} ({facts['layout']})", facts["licence"])
    if not Path(source).expanduser().exists():
        raise BadData(f"{source} does not exist; give --data a folder of images, 'shapes' or 'scenes'.")
    return Need(f"images: {source}", True, source, "your own")


def _judges(sizes: Sizes) -> Iterator[Need]:
    """The networks in losses and scores."""
    facts = graph.facts(sizes.config, sizes.card.kind)
    trains = facts["trains-autoencoder"] or facts["continues-autoencoder"]
    for name, kind, judge, file, weights in graph.judging(sizes.config.model_dump(mode="json"), trains_autoencoder=trains):
        need = judge_of(kind, judge, file, weights, optional=name == "scores.perceptual")
        data = sizes.config.data
        if not judges.is_familiar(kind, judge, data.source if data.drawn else None):
            need = replace(need, where=f"{need.where}; trained on drawn images, not on photographs or on these (--set {name}=...)")
        yield need
    if sizes.config.scores.fdr6 is not None:
        yield from (_ratio_need(name, Path(sizes.config.scores.fdr6)) for name in SPACES[1:])


def _ratio_need(name: str, given: Path) -> Need:
    """The weights of one of FDr6's networks in the folder that holds them."""
    facts = judges.row("features", name)
    path = given / facts["file"]
    where = str(path) if path.is_file() else f"{facts['source'].split()[0]}: model.safetensors, saved as {path}"
    return Need(f"weights of {name} (scores.fdr6)", path.is_file(), where, facts["licence"])


def _of_scores(plain: dict[str, Any]) -> list[dict[str, Any]]:
    """The known data sets that are used by a single kind of score, if this score is enabled."""
    known = [facts for facts in read_yaml(folder("reports") / "datasets.yaml").values() if "scores" in facts]
    return [facts for facts in known if graph.field(plain, facts["setting"].rpartition(".")[0]).get("enabled", True)]


def _given(plain: dict[str, Any], setting: str) -> str | None:
    """The value of a field of a configuration as JSON data; None if it lacks the field."""
    part, _, name = setting.rpartition(".")
    return graph.field(plain, part).get(name)


def _datasets(config: RunConfig) -> Iterator[Need]:
    """The given data sets that are used by a single kind of score."""
    plain = config.model_dump(mode="json")
    for facts in _of_scores(plain):
        given = _given(plain, facts["setting"])
        if given is not None:
            here = Path(given).expanduser().is_dir()
            advice = f"{given} is no folder; {facts['source']}; --set {facts['setting']}=DIR ({facts['layout']})"
            yield Need(f"images: {facts['title']}", here, given if here else advice, facts["licence"])


def _reference(config: RunConfig) -> Iterator[Need]:
    """The reference of the samples, if it was given."""
    given = config.scores.reference
    if given is not None:
        here = Path(given).exists()
        yield Need("reference of the samples", here, given if here else f"{given} does not exist; {REFERENCES}", "that of its images")


def _packages(sizes: Sizes) -> Iterator[Need]:
    """Packages that this run imports."""
    names = ["torch", "torchvision", "torch-fidelity"]
    backends = [BACKENDS.get(card.backend) for card in (sizes.card, sizes.teacher) if card]
    names += [row.package for row in backends if row and row.package]
    if "lpips" in (sizes.config.scores.perceptual, sizes.config.autoencoder.loss.network):
        names.append("lpips")
    for name in dict.fromkeys(names):
        need = package(name)
        yield Need(f"package {need.what}", need.here, need.where)


def _cached(repository: str, name: str, revision: str | None) -> Path | None:
    """A file in the Hugging Face cache."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache/huggingface"))
    place = Path(os.environ.get("HF_HUB_CACHE", home / "hub")) / f"models--{repository.replace('/', '--')}" / "snapshots"
    return next(iter(sorted(place.glob(f"{revision or '*'}/{name}"))), None)
