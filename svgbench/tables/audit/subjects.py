"""What an audit looks at: a finished run, a set of images or statistics, or a file of published numbers. No torch until a network or an
image is opened."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Hashable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from svgbench.config.records import Manifest, Protocol
from svgbench.config.sampling import SamplingProtocol
from svgbench.config.schema import RunConfig
from svgbench.errors import BadData, BadInput, BrokenArtifact, unknown
from svgbench.lab.store import Store
from svgbench.metrics.declared import METRICS
from svgbench.metrics.npz import IMAGES, LABELS, STATISTICS, mapped, members, statistics_in, stored
from svgbench.stages import graph
from svgbench.tables.audit.findings import CannotTell
from svgbench.tables.collect import RunRecord, collect, read_run
from svgbench.tables.published import Published, published

if TYPE_CHECKING:
    from svgbench.images.store import Images
    from svgbench.machine.runtime import Runtime
    from svgbench.nets.tokenizer import Codec, Tokenizer


class AuditedRun:
    """A finished run of an output directory, and the other runs there."""

    kind = "run"

    def __init__(self, out: Path, name: str, device: str = "auto") -> None:
        self.record, self.out, self.device = collect(out, [name])[0], out, device
        self.store = Store(out / "store")
        self._verified: set[str] = set()

    @property
    def title(self) -> str:
        """How the subject is named in a table."""
        return f"run {self.record.name}"

    @cached_property
    def settings(self) -> RunConfig:
        """The run's configuration."""
        content = self.record.config()
        try:
            return RunConfig.model_validate(content) if content else self._without_settings()
        except ValidationError:
            return self._without_settings()

    def _without_settings(self) -> RunConfig:
        raise CannotTell("The run has no config.yaml that this version reads")

    @cached_property
    def others(self) -> list[RunRecord]:
        """The other runs of the output directory; damaged ones are left out."""
        records = []
        for path in sorted(self.out.glob("*/run.json")):
            if path.parent.name != self.record.name:
                with contextlib.suppress(BrokenArtifact):
                    records.append(read_run(path.parent, None))
        return records

    @property
    def seeds(self) -> list[RunRecord]:
        """The runs that differ from this one at most in their seed and have scores, this one first."""
        return [one for one in (self.record, *self.others) if one.row == self.record.row and one.scores]

    # --- artifacts ---

    def entries(self, provided: str) -> list[dict[str, Any]]:
        """The recorded stages that provide an input of this name, in the order in which they ran; a later one replaces an earlier one."""
        known = {stage.name: stage.provides or stage.name for stage in graph.STAGES}
        return [entry for entry in self.record.about["stages"] if known.get(entry["stage"]) == provided]

    def entry(self, provided: str) -> dict[str, Any]:
        """The last of them. Raises CannotTell if there is none."""
        found = self.entries(provided)
        if not found:
            raise CannotTell(f"The run has no finished stage '{provided}'")
        return found[-1]

    def manifest(self, entry: dict[str, Any]) -> Manifest:
        """The manifest of a recorded artifact. Raises CannotTell if it is not in the store."""
        manifest = self.store.manifest(entry["stage"], entry["key"])
        if manifest is None:
            raise CannotTell(f"The artifact of '{entry['stage']}' is not in the store")
        return manifest

    def place(self, entry: dict[str, Any]) -> Path:
        """The directory of a recorded artifact, whose files are compared with their digests once."""
        self.manifest(entry)
        if entry["key"] not in self._verified:
            self.store.verify(entry["stage"], entry["key"])
            self._verified.add(entry["key"])
        return self.store.place(entry["stage"], entry["key"])

    @cached_property
    def images(self) -> Images:
        """The run's images. Raises CannotTell if they are not here."""
        from svgbench.images.store import open_images

        place = self.place(self.entry("images"))
        try:
            return open_images(place)
        except BrokenArtifact as error:
            raise CannotTell(f"The images cannot be opened: {str(error).removesuffix('.')}") from None

    @cached_property
    def digests(self) -> dict[str, str]:
        """Split -> sha256 of its images; empty if the images are not here."""
        from svgbench.images import packed

        try:
            files = packed.digests(self.place(self.entry("images")))
        except (CannotTell, BrokenArtifact):
            return {}
        return {split: files[f"{split}.images.npy"] for split in packed.SPLITS if f"{split}.images.npy" in files}

    @cached_property
    def runtime(self) -> Runtime:
        """The device on which networks run."""
        from svgbench.machine.runtime import Runtime

        return Runtime(device=self.device, quiet=True).start()

    @cached_property
    def tokenizer(self) -> Tokenizer | Codec:
        """The run's tokenizer. Raises CannotTell if it cannot be opened here."""
        from svgbench.stages.tokenizers import open_tokenizer

        place, runtime = self.place(self.entry("autoencoder")), self.runtime
        try:
            return open_tokenizer(place, runtime)
        except (BadInput, BrokenArtifact) as error:
            raise CannotTell(f"The tokenizer cannot be opened: {str(error).removesuffix('.')}") from None

    @cached_property
    def classes(self) -> int | None:
        """Number of classes of the transformer; None if its artifact is not here."""
        try:
            return len(json.loads((self.place(self.entry("diffusion")) / "sit.json").read_bytes())["classes"])
        except CannotTell:
            return None

    def samples(self) -> list[tuple[dict[str, Any], Path]]:
        """Each set of scored samples: its cell and its directory. Raises CannotTell if there is none."""
        found = self.entries("samples")
        if not found:
            raise CannotTell("The run has no samples")
        return [(entry["cell"], self.place(entry)) for entry in found]

    # --- scores ---

    def scored(self, group: str) -> list[tuple[dict[str, Any], Protocol]]:
        """The scores of a group of metrics, with their protocols."""
        rows = [row for row in self.record.scores if row["metric"] in METRICS and METRICS[row["metric"]].group == group]
        try:
            return [(row, Protocol.model_validate(row["protocol_fields"])) for row in rows]
        except ValidationError:
            raise CannotTell("The run has protocols that this version does not read") from None

    @property
    def samplings(self) -> list[SamplingProtocol]:
        """The ways in which the scored samples were drawn, without repetitions."""
        found = [made.sampling for _, made in self.scored("generation") if made.sampling is not None]
        return list({way.text: way for way in found}.values())


class AuditedSet:
    """A file with images, feature statistics or both, as ``svgbench eval`` takes it; the images may be floats, which ``eval`` refuses."""

    kind = "set"

    def __init__(self, path: Path, *, reference: Path | None = None, extractor: str = "inception") -> None:
        """``reference``: the images or statistics with which they will be compared; ``extractor``: the network that will compare them."""
        self.path, self.reference, self.extractor = path, reference, extractor
        numpy_file = path.is_file() and path.suffix.lower() not in (".zip", ".tar", ".npy")
        inside = members(path) if numpy_file else []
        self.statistics = statistics_in(path) if set(STATISTICS) <= set(inside) else None
        self.images: Any = None
        """Images [3, H, W] by index, of any type; None if the file has statistics only."""
        self.labels: Sequence[Hashable] | None = None
        if IMAGES in inside:
            self.images = _Pixels(path, stored(path, IMAGES))
            labels = stored(path, LABELS) if LABELS in inside else None
            self.labels = labels.tolist() if labels is not None and labels.dtype.kind in "iu" and labels.ndim == 1 else None
        elif path.suffix.lower() == ".npy" and path.is_file():
            self.images = _Pixels(path, mapped(path))
        elif self.statistics is None:
            from svgbench.metrics.image_sets import open_set

            self.images = open_set(path)
            self.labels = self.images.labels()

    @property
    def title(self) -> str:
        """How the subject is named in a table."""
        return str(self.path)

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the images in pixels."""
        return None if self.images is None else tuple(self.images.shape[2:])

    @cached_property
    def reference_size(self) -> tuple[int, int] | None:
        """The same of the reference, which may be an artifact of a store; None if it holds statistics only."""
        assert self.reference is not None  # asked only with a reference
        if (self.reference / "images.json").is_file():
            from svgbench.images import packed

            return (packed.read(self.reference)["resolution"],) * 2
        if (self.reference / "reference.json").is_file():
            return side_of(self.reference)
        return AuditedSet(self.reference).size


def side_of(references: Path) -> tuple[int, int] | None:
    """Height and width in pixels of the images of a references artifact; None if it holds statistics only."""
    side = json.loads((references / "reference.json").read_bytes())["side"]
    return (side, side) if isinstance(side, int) else tuple(side) if side else None


class _Pixels:
    """Images [3, H, W] by index, of an array [N, H, W, 3] or [N, 3, H, W] of any type."""

    def __init__(self, path: Path, array: np.ndarray) -> None:
        if array.ndim == 4 and array.shape[1] == 3 and array.shape[3] != 3:
            array = array.transpose(0, 2, 3, 1)
        if array.ndim != 4 or array.shape[3] != 3 or not len(array):
            raise BadData(f"{path}: holds {array.dtype} {list(array.shape)}, which are no images; give images [N, H, W, 3].")
        self._array, self.dtype = array, array.dtype
        self.shape = (len(array), 3, *array.shape[1:3])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> np.ndarray:
        return np.ascontiguousarray(self._array[index].transpose(2, 0, 1))


class AuditedNumbers:
    """A file of published numbers, in the format of ``reports/published.csv``."""

    kind = "numbers"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Published] = published(path)

    @property
    def title(self) -> str:
        """How the subject is named in a table."""
        return str(self.path)


Subject = AuditedRun | AuditedSet | AuditedNumbers


def subject_of(
    name: str, out: Path, *, reference: Path | None = None, extractor: str = "inception", device: str = "auto"
) -> Subject:  # fmt: skip
    """The subject of a word on the command line: a run under ``out``, the directory of a run, a ``.csv`` of published numbers, or a set of
    images or statistics. Raises UnknownName if it is none of these."""
    runs = {place.parent.name for place in out.glob("*/run.json")}
    path = Path(name)
    if name in runs:
        return AuditedRun(out, name, device)
    if (path / "run.json").is_file():
        return AuditedRun(path.resolve().parent, path.resolve().name, device)
    if not path.exists():
        if not out.is_dir():
            raise BadInput(f"there is no file '{name}', and {out} does not exist; give a file, or a run and its --out.")
        raise unknown("run or file", name, runs)
    if path.suffix.lower() == ".csv":
        return AuditedNumbers(path)
    return AuditedSet(path, reference=reference, extractor=extractor)
