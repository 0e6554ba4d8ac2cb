"""The data behind figures: finished runs, grouped into tokenizers (runs that differ only in their seed), and their artifacts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from svgbench.config.parse import validate
from svgbench.config.records import digest
from svgbench.config.schema import RunConfig
from svgbench.errors import BadInput
from svgbench.lab.diagnosis import recorded
from svgbench.lab.store import Store
from svgbench.shelf import read_yaml
from svgbench.tables.collect import RunRecord
from svgbench.tables.labels import row_numbers


@dataclass(frozen=True)
class TokenizerRuns:
    """Runs that differ only in their seed; pictures are from the first."""

    name: str
    config: RunConfig
    """Configuration of the first run."""
    records: tuple[RunRecord, ...]
    """Records of the runs, by seed."""
    store: Store
    number: int = 0
    """Its number among the rows of the tables, which determines its colour."""
    diagnoses: Mapping[str, str] = field(default_factory=dict)
    """Key of each finished diagnosis of the first run."""
    checked: dict[tuple[str, str], Path] = field(default_factory=dict, compare=False)
    """Artifacts whose digests were checked -> their directories."""

    @property
    def first(self) -> RunRecord:
        """The run with the lowest seed."""
        return self.records[0]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The scores of all seeds."""
        return [row for record in self.records for row in record.scores]

    def read(self, stage: str) -> tuple[np.ndarray, dict[str, Any]]:
        """A diagnosis: its array, and the content of its JSON file."""
        place = self._checked(stage, self.diagnoses[stage])
        about = next(path for path in sorted(place.glob("*.json")) if path.name != "manifest.json")
        return np.load(next(place.glob("*.npy")), mmap_mode="r"), json.loads(about.read_text())

    def reconstructions(self) -> np.ndarray:
        """uint8 [N, 3, H, W], in the order of the validation images."""
        return np.load(self._place("reconstructions") / "reconstructions.npy", mmap_mode="r")

    def training_log(self) -> list[list[dict[str, Any]]]:
        """For each seed, the lines of its transformer's training log, with ``images_seen`` and losses. Seeds without a log are left out."""
        logs = []
        for record in self.records:
            node = recorded(record.about["stages"]).get("diffusion")
            if node is None or not (self.store.place(node.stage, node.key) / "log.jsonl").is_file():
                continue
            text = (self._checked(node.stage, node.key) / "log.jsonl").read_text(encoding="utf-8")
            logs.append([json.loads(line) for line in text.splitlines()])
        return logs

    def cells(self) -> dict[tuple[int, float], str]:
        """(steps, guidance) of the samples from the end of the training -> their key."""
        entries = [entry for entry in self.first.about["stages"] if entry["stage"] == "samples"]
        whole = [entry for entry in entries if entry["cell"].get("sampling.trained", 1.0) == 1]
        return {(entry["cell"]["sampling.steps"], entry["cell"]["sampling.guidance"]): entry["key"] for entry in whole}

    def samples(self, steps: int, guidance: float) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [N, 3, H, W] and labels [N] of one cell."""
        place = self._checked("samples", self.cells()[steps, guidance])
        return np.load(place / "samples.npy", mmap_mode="r"), np.load(place / "labels.npy")

    def classes(self) -> list[str]:
        """Names of the classes, by label."""
        return json.loads((self._place("images") / "images.json").read_text())["classes"]

    def images_key(self) -> str:
        """The key of the images that the run uses."""
        return recorded(self.first.about["stages"])["images"].key

    def _place(self, name: str) -> Path:
        node = recorded(self.first.about["stages"])[name]
        return self._checked(node.stage, node.key)

    def _checked(self, stage: str, key: str) -> Path:
        """The directory of an artifact. Raises BrokenArtifact if its files do not match their digests."""
        if (stage, key) not in self.checked:
            self.store.verify(stage, key)
            self.checked[stage, key] = self.store.place(stage, key)
        return self.checked[stage, key]


def tokenizers(records: Iterable[RunRecord], store: Store) -> list[TokenizerRuns]:
    """Runs grouped by their configurations without the seed, in the order of the records and of the tables."""
    groups: dict[str, list[tuple[RunRecord, RunConfig]]] = {}
    for record in records:
        config = validate(RunConfig, read_yaml(record.place / "config.yaml"), where=str(record.place / "config.yaml"))
        groups.setdefault(digest(config.model_dump(mode="json", exclude={"seed": True})), []).append((record, config))
    numbers, collected = row_numbers([record for group in groups.values() for record, _ in group]), []
    for group in groups.values():
        group.sort(key=lambda pair: pair[1].seed)
        (first, config), of_seeds = group[0], tuple(record for record, _ in group)
        collected.append(TokenizerRuns(first.row, config, of_seeds, store, numbers[first.row]))
    return collected


def of_one_set(pictured: list[TokenizerRuns]) -> None:
    """Raises BadInput unless all use the same images: pictures of different images cannot be compared."""
    sets: dict[str, str] = {}
    for one in pictured:
        sets.setdefault(one.images_key(), one.name)
    if len(sets) > 1:
        first, second = list(sets.values())[:2]
        raise BadInput(f"'{first}' and '{second}' use different images, so their pictures cannot be compared; name runs of one data set.")


def rmse(one: np.ndarray, other: np.ndarray) -> float:
    """Root mean square difference of two uint8 images, scaled to [0, 1]."""
    return float(np.sqrt(np.mean((one.astype(np.float64) - other) ** 2)) / 255)
