"""Runs to audit: records with artifacts that a test writes, and the finding of one item."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import yaml
from fake_runs import seal_record

from svgbench.config.build import build
from svgbench.config.parse import override
from svgbench.config.records import Manifest, key_of
from svgbench.lab.store import Store, files_of
from svgbench.tables.audit.findings import AuditFinding
from svgbench.tables.audit.items import ITEMS, answer
from svgbench.tables.audit.subjects import Subject, subject_of

SIZES = {"channels": 104, "patch": 1, "width": 128, "wide": None}


class MadeRun:
    """A run of an output directory whose artifacts are those that a test adds."""

    def __init__(self, out: Path, name: str = "run", *words: str, scores=(), config=None, encoder: str = "dinov3-tiny") -> None:
        self.out, self.place, self.stages, self.encoder = out, out / name, [], encoder
        self.place.mkdir(parents=True)
        config = config if config is not None else build(override([*words]), preset="tiny").model_dump(mode="json")
        (self.place / "config.yaml").write_text(yaml.safe_dump(config))
        (self.place / "scores.json").write_text(json.dumps(list(scores)))
        self.seal()

    def seal(self) -> None:
        """Writes ``run.json``."""
        about = {"run": self.place.name, "encoder": self.encoder, "family": self.encoder.split("-")[0], "kind": "features"}
        seal_record(self.place, {**about, "stages": self.stages, "failures": {}})

    def add(self, stage: str, files=None, *, folder: Path | None = None, inputs=None, cell=None, cost=None, stored: bool = True) -> str:
        """Records a finished stage with these files (bytes, arrays or JSON), or with those of a folder; ``stored``: also in the store."""
        files = dict(files or {}) | (
            {} if folder is None else {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        )
        slice_ = {"run": self.place.name, "number": len(self.stages)}
        key = key_of(stage, 1, slice_, inputs or {})
        store = Store(self.out / "store")
        if stored:
            with store.claim(stage, key) as partial:
                for name, content in files.items():
                    (partial / name).write_bytes(content if isinstance(content, bytes) else as_bytes(content))
                digests, sizes = files_of(partial)
                made = {
                    "stage": stage,
                    "version": 1,
                    "key": key,
                    "slice": slice_,
                    "inputs": inputs or {},
                    "seconds": 1.0,
                    "finished": "now",
                }
                store.commit(Manifest(**made, files=digests, sizes=sizes), partial)
        entry = {"stage": stage, "key": key, "cell": cell or {}, "seconds": 1.0, "cost": cost or {}, "host": {}}
        self.stages.append(entry)
        self.seal()
        return key

    def transformer(self, *, classes: int = 10, prediction: str = "velocity", images_seen: int = 64_000, **sizes) -> str:
        """Records a trained transformer of these sizes, without weights."""
        about = {"sizes": {**SIZES, **sizes}, "classes": [str(n) for n in range(classes)], "objective": "flow", "prediction": prediction}
        return self.add("diffusion", {"sit.json": about}, cost={"images_seen": images_seen})

    def samples(self, samples: np.ndarray, labels: np.ndarray, steps: int = 25) -> str:
        """Records a set of samples."""
        cell = {"sampling.steps": steps, "sampling.guidance": 1.0, "sampling.trained": 1.0}
        return self.add("samples", {"samples.npy": samples, "labels.npy": labels}, cell=cell)

    def subject(self) -> Subject:
        """As the command opens it."""
        return subject_of(self.place.name, self.out, device="cpu")

    def ask(self, item: str) -> AuditFinding:
        """The finding of an item."""
        return ask(item, self.subject())


def as_bytes(content) -> bytes:
    """An array as ``.npy``, anything else as JSON."""
    if not isinstance(content, np.ndarray):
        return json.dumps(content).encode()
    stream = io.BytesIO()
    np.save(stream, content)
    return stream.getvalue()


def ask(name: str, subject: Subject) -> AuditFinding:
    """The finding of an item about a subject."""
    (item,) = (one for one in ITEMS if one.name == name)
    found = answer(item, subject)
    assert found is not None
    return found


def pictures(count: int = 20, side: int = 8, seed: int = 0) -> np.ndarray:
    """Images [N, 3, H, W] that all differ."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), np.uint8)
