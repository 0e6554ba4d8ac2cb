"""The six feature spaces of FDr6 (``frechet_ratio``) and the files that they need. No torch, because plans need the digests."""

from __future__ import annotations

from pathlib import Path

from svgbench.config.file_state import file_digest
from svgbench.config.records import digest
from svgbench.config.scoring import SPACES
from svgbench.errors import BadWeights
from svgbench.metrics.judges import row


def weights_in(folder: Path) -> dict[str, Path]:
    """The weights file of each space beside Inception in a folder, by the names in ``extractors.yaml``. Raises BadWeights with all that are
    missing."""
    files = {name: folder / row("features", name)["file"] for name in SPACES[1:]}
    missing = {name: path for name, path in files.items() if not path.is_file()}
    if missing:
        wanted = ", ".join(
            f"{path.name} (model.safetensors of {row('features', name)['source'].split()[0]})" for name, path in missing.items()
        )
        raise BadWeights(f"{folder} lacks weights that FDr6 needs: {wanted}; save them there under these names.")
    return files


def statistics_in(folder: Path, name: str) -> Path | None:
    """Published statistics of a space's reference, ``NAME.npz`` in the same folder; None if there are none."""
    path = folder / f"{name}.npz"
    return path if path.is_file() else None


def folder_identity(folder: Path) -> str:
    """Digest of the weights and of the statistics in a folder, for a plan's key. Raises BadWeights if weights are missing."""
    files = weights_in(folder)
    given = {name: statistics_in(folder, name) for name in files}
    return digest({name: [file_digest(path) for path in (files[name], given[name]) if path is not None] for name in files})
