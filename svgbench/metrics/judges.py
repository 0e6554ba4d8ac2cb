"""The judging networks: their names, their weights files, and the required contents of these files.

Protocol: a judge is identified by its name and the sha256 of the weights that were opened; another file is a different judge, whose numbers
have a different protocol. Files are read by ``weights.files``, which runs no code inside them. Limit: a digest does not show whether the
weights are good. No torch, because plans need the identities.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svgbench.config.file_state import file_digest
from svgbench.config.records import digest
from svgbench.errors import BadData, BadWeights, BrokenArtifact, unknown
from svgbench.shelf import folder, read_yaml

if TYPE_CHECKING:
    from torch import Tensor


def row(kind: str, name: str) -> dict[str, Any]:
    """The facts of one judge; ``kind`` is ``features`` or ``pairs``."""
    known = read_yaml(folder("reports") / "extractors.yaml")[kind]
    if name not in known:
        raise unknown("extractor" if kind == "features" else "perceptual distance", name, known)
    return known[name]


def weights_file(kind: str, name: str, weights: str | Path | None = None, *, setting: str | None = None) -> Path:
    """The file to open: ``weights``, or by default the file shipped with svgbench; ``setting``: the field to name in an error."""
    facts = row(kind, name)
    if weights is not None:
        path = Path(weights)
        if not path.is_file():
            raise BadWeights(f"{path} does not exist; give the weights file of '{name}'{_source_of(facts)}.")
        return path
    if "shelf" not in facts:
        setting = setting or ("scores.extractor_weights" if kind == "features" else "scores.lpips_weights")
        raise BadWeights(f"'{name}' needs its weights file{_source_of(facts)}; fetch it where there is a network and set {setting} to it.")
    path = folder("encoders") / facts["shelf"]
    if not path.is_file():
        raise BadWeights(f"'{name}' has no {path}; install svgbench again, or train it again by 'svgbench pretrain {name}'.")
    actual = file_digest(path)
    if facts.get("sha256", actual) != actual:
        raise BadWeights(f"{path} has digest {actual[:12]}..., extractors.yaml requires {facts['sha256'][:12]}...; install svgbench again.")
    return path


def trained_on(kind: str, name: str) -> str | None:
    """The drawn images on which a judge was trained, ``shapes`` or ``scenes``; None: photographs."""
    return row(kind, name).get("images")


def is_familiar(kind: str, name: str, drawn: str | None) -> bool:
    """Whether a judge may score these images: any, if it was trained on photographs, else only those on which it was trained. ``drawn``:
    their source, if they are drawn."""
    return trained_on(kind, name) in (None, drawn)


def unfamiliar(names: Iterable[str]) -> str:
    """The note for numbers for which judges trained on drawn images score other images."""
    listed = " and ".join(dict.fromkeys(names))
    return f"{listed}: trained on drawn images, not on photographs or on these; use these numbers only to compare runs on the same images"


def source_of(kind: str, name: str) -> str:
    """A judge's weights file, where to get it and its licence, for a message."""
    return _source_of(row(kind, name))


def _source_of(facts: dict[str, Any]) -> str:
    return f" {facts['file']} (from {facts['source']}, licence {facts['licence']})" if "file" in facts else ""


def identity(kind: str, name: str, weights: str | Path | None = None, *, setting: str | None = None) -> str:
    """sha256 of the weights that would be opened, for a plan's key; without torch."""
    return file_digest(weights_file(kind, name, weights, setting=setting))


def reference_identity(path: Path, extractor: str | None) -> str:
    """Digest of the content of reference images or statistics, for a plan's key: a file's bytes; an artifact's or a packed store's digests,
    with which its files are compared; paths and bytes of a folder's images (or of all its files, if it holds statistics). Statistics that
    cannot be the ``extractor``'s are refused here, before anything runs (None: not checked)."""
    from svgbench.images import catalogue, packed, scan
    from svgbench.images.listing import SUFFIXES
    from svgbench.metrics.npz import IMAGES, holds_statistics, members, statistics_in  # imports numpy, like the ones below

    if not path.exists():
        raise BadData(f"{path} does not exist; set scores.reference to an .npz, a folder of images or an artifact of the store.")
    if path.is_file():
        if extractor is not None and holds_statistics(path):
            width, wanted = len(statistics_in(path)["mu"]), row("features", extractor)["dim"]
            if width != wanted:
                raise BadData(
                    f"{path}: statistics of {width} numbers, but '{extractor}' gives {wanted}; "
                    "use the extractor that the statistics were made with."
                )
            if IMAGES in members(path):  # these images are also read; the identity of a file with only statistics is unchanged
                return digest({"file": file_digest(path), "images": IMAGES})
        return file_digest(path)
    if (path / "manifest.json").is_file():
        return _artifact_identity(path)
    if packed.holds(path):
        return digest(packed.verified_digests(path))
    files = list(scan.walk(path, "", SUFFIXES, scan.Skipped())) or list(scan.walk(path, "", ("",), scan.Skipped()))
    if not files:
        raise BadData(f"{path}: holds no images or statistics; give scores.reference an .npz, a folder of images or an artifact.")
    return catalogue.read(path, files, "reference").identity


def _artifact_identity(path: Path) -> str:
    """The digests in an artifact's manifest. Raises BrokenArtifact when its files, or those of the packed images that it names, do not
    match."""
    from svgbench.images import catalogue, packed, scan

    try:
        listed = json.loads((path / "manifest.json").read_text())["files"]
        files = [scan.stat_file(path, name) for name in listed]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BrokenArtifact(f"{path / 'manifest.json'}: cannot be read ({error}); make the artifact again.") from None
    digests = catalogue.read(path, files, "artifact", report=False).digests
    if changed := next((name for name in listed if digests[name] != listed[name]), None):
        raise BrokenArtifact(f"{path / changed}: its bytes are not those that the manifest lists; make the artifact again.")
    if packed.holds(path):
        packed.verified_digests(path)
    return digest(listed)


def head_widths(state: dict[str, Tensor], path: Path) -> dict[str, int]:
    """Numbers of classes and of caption words of a small classifier, from the shapes of its weights."""
    heads = {"classes": "logits.weight", "words": "words.weight"}
    absent = [name for name in heads.values() if name not in state]
    if absent:
        raise BadWeights(f"{path} does not fit: it has no {absent[0]}; give the weights of a classifier of the drawn images.")
    return {width: len(state[name]) for width, name in heads.items()}
