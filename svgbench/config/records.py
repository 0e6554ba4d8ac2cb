"""What is written down: canonical JSON, keys, manifests of finished artifacts, scores."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from svgbench.config.part import Part

STORE_FORMAT = 1
"""Version of the store's layout; a store written by a newer one is refused."""


def canonical(content: Any) -> str:
    """JSON with sorted keys and no spaces; refuses NaN. Equal content gives equal text on every machine."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def digest(content: Any) -> str:
    """sha256 of the canonical JSON, 64 hex digits."""
    return hashlib.sha256(canonical(content).encode()).hexdigest()


class Score(Part):
    """One number with what it needs to be read: interval, count and protocol."""

    metric: str
    """gfid, rfid, psnr, ssim, lpips, is, kid, precision, recall, probe_top1, probe_top5, knn_top1, miou, macc."""
    value: float
    low: float | None = None
    high: float | None = None
    """The interval; how it was made is the protocol's last part or ``detail['interval']``."""
    count: int
    """Images behind the number."""
    protocol: str
    """Two numbers may be compared when these texts are equal."""
    detail: dict[str, Any] = {}
    """What a reader may want beside it: steps, guidance, chosen learning rate, which latents."""


class Manifest(Part):
    """``manifest.json``: written last, so its existence means that the artifact is finished."""

    format: int = STORE_FORMAT
    stage: str
    version: int
    key: str
    slice: dict[str, Any]
    """All of the configuration that the stage could read."""
    inputs: dict[str, str]
    """Name of the input -> key of its artifact."""
    files: dict[str, str]
    """Relative path -> sha256."""
    sizes: dict[str, int]
    seconds: float
    cost: dict[str, Any] = {}
    """images per second, peak memory, FLOPs, utilisation: what the stage reported."""
    host: dict[str, Any] = {}
    """Machine, device, threads, library versions."""
    finished: str
    """UTC time, for people; nothing is ordered by it."""
