"""Stored records: canonical JSON, keys, manifests of finished artifacts, scores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from svgbench.config.part import Part
from svgbench.config.sampling import SamplingProtocol

STORE_FORMAT = 2
"""Version of the store's layout; a store with a newer version is refused. In version 1, manifests did not contain their digest."""
SEALED = 2
"""First ``format`` in which a record contains its digest."""
RUN_FORMAT = 2
"""Version of ``run.json``; version 1 contained no digests."""
RECORDED, PICTURE = ("config.yaml", "scores.json"), "overview.png"
"""Files beside ``run.json``, which holds their digests; a run without samples has no picture."""
RECORD_LOCK = "record.lock"
"""Lock file in a run's directory while a process writes its record."""
_BLANK, _END = b"0" * 64, b'"\n}\n'
_TAIL = len(_BLANK + _END)


class NewerRecord(ValueError):
    """A record of a format that only a newer svgbench knows."""


def canonical(content: Any) -> str:
    """JSON with sorted keys and no spaces; refuses NaN. Equal content gives equal text on every machine."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def digest(content: Any) -> str:
    """sha256 of the canonical JSON, 64 hex digits."""
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def seal(content: Mapping[str, Any]) -> bytes:
    """Indented JSON whose last field, ``digest``, is the sha256 of its bytes with zeros instead of the digest. ``content`` has a ``format``
    of ``SEALED`` or more, so that a missing digest is detected."""
    blank = (json.dumps({**content, "digest": _BLANK.decode()}, indent=1) + "\n").encode()
    return blank[:-_TAIL] + hashlib.sha256(blank).hexdigest().encode() + _END


def unseal(raw: bytes, newest: int) -> dict[str, Any]:
    """The content of a sealed record without its digest, or of an old record without digest (no ``format``, or 1). Raises ValueError if it
    is not JSON or any byte was changed; NewerRecord if its format is above ``newest``."""
    content = from_json(raw)
    if not isinstance(content, dict):
        raise ValueError("it holds no fields")
    version = content.get("format", 1)
    if type(version) is not int:
        raise ValueError("its format is not a number")
    if version > newest:
        raise NewerRecord(f"format {version}, this svgbench reads {newest}")
    if version < SEALED and "digest" not in content:
        return content
    if not _holds(raw):
        raise ValueError("its digest does not match its content")
    del content["digest"]
    return content


def digest_in(raw: bytes, *, known: bool = False) -> str:
    """The digest in a record if it is correct, else the digest of all its bytes. ``known``: the record is correct, and is not checked."""
    return raw[-_TAIL : -len(_END)].decode() if known or _holds(raw) else hashlib.sha256(raw).hexdigest()


def _holds(raw: bytes) -> bool:
    """Whether bytes end with their own digest."""
    return hashlib.sha256(raw[:-_TAIL] + _BLANK + _END).hexdigest().encode() + _END == raw[-_TAIL:]


class Protocol(Part):
    """How a score was computed, field by field. Two scores may be ranked only if all fields are equal."""

    measure: str
    """The measured quantity: fd, kd, psnr, linear, ..."""
    judge: str | None = None
    """The network on which the score depends."""
    judge_digest: str | None = None
    """sha256 of its weights."""
    resize: str | None = None
    """How the judge resizes images."""
    reference: str | None = None
    """What the judged images are compared with: train, val, or other images or statistics."""
    reference_count: int | None = None
    """Number of reference images."""
    reference_digest: str | None = None
    """sha256 of the images, or of the file of their statistics."""
    images: str
    """Which images are judged: ``samples``, ``reconstructed``, ``val``, ``given``."""
    count: int | None = None
    """Number of judged images."""
    images_digest: str | None = None
    """sha256 of the judged images."""
    balance: str | None = None
    """How the labels of samples were drawn: balanced or random."""
    rounding: str | None = None
    """How decoded pixels were rounded to 8-bit images."""
    details: tuple[str, ...] = ()
    """Anything else that changes the score, in words."""
    settings: str | None = None
    """Digest of the settings of the probe or head that was trained for the score."""
    chosen: dict[str, Any] | None = None
    """Those settings, field by field."""
    sampling: SamplingProtocol | None = None
    """How samples were drawn, for scores of samples."""
    limit: int | None = None
    """The ``--limit`` of a trial, which is never compared with a full run."""
    version: str
    """Increased whenever a change of svgbench's arithmetic changes the score."""

    @property
    def text(self) -> str:
        """The protocol as one line, e.g. ``fd-shapes-cnn@1a2b3c4d/as-is/train-10000@9f8e7d6c/balanced-2000/uint8-round/v1``; digests have 8
        digits."""
        return self._line(self.sampling.text if self.sampling else None)

    @property
    def note(self) -> str:
        """The text without steps and guidance, which are columns of a table."""
        return self._line(self.sampling.how if self.sampling else None)

    def _line(self, sampling: str | None) -> str:
        judge = f"-{self.judge}@{(self.judge_digest or '')[:8]}" if self.judge else ""
        parts = [self.measure + judge, self.resize]
        parts += [_group(self.reference, self.reference_count, self.reference_digest)] if self.reference else []
        parts += [_group(self.balance or self.images, self.count, self.images_digest), *self.details, self.rounding]
        parts += [f"settings@{self.settings[:8]}" if self.settings else None, sampling]
        parts += [f"limit-{self.limit}" if self.limit else None, self.version]
        return "/".join(part for part in parts if part)

    def __str__(self) -> str:
        return self.text

    def differs(self, other: Protocol) -> list[str]:
        """The fields in which two protocols differ, as ``field (mine, other's)``, without steps and guidance, which are columns of a
        table."""
        mine, others = (flat(protocol.model_dump(mode="json")) for protocol in (self, other))
        left = {"sampling.steps", "sampling.guidance", *(["settings"] if self.chosen and other.chosen else [])}
        names = [name for name in mine | others if name not in left]
        return [f"{n} ({_short(mine.get(n))}, {_short(others.get(n))})" for n in names if mine.get(n) != others.get(n)]


def flat(fields: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Nested fields under dotted names: ``{"a": {"b": 1}}`` gives ``{"a.b": 1}``."""
    values: dict[str, Any] = {}
    for name, value in fields.items():
        values |= flat(value, f"{before}{name}.") if isinstance(value, dict) else {before + name: value}
    return values


def _short(value: Any) -> str:
    """A field's value as shown to users; digests have 8 digits."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return "none" if value is None or not text else text[:8] if len(text) == 64 else text


def _group(name: str, count: int | None, digest: str | None) -> str:
    """A set of images in a protocol's text."""
    return name + (f"-{count}" if count is not None else "") + (f"@{digest[:8]}" if digest else "")


class Score(Part):
    """One score with its interval, image count and protocol."""

    metric: str
    """A name that ``metrics/declared.py`` declares: gfid, psnr, probe_top1, ..."""
    value: float
    """The score, in the metric's unit."""
    low: float | None = None
    """Lower end of the interval."""
    high: float | None = None
    """Upper end of the interval; how it was made is the protocol's last part or ``detail['interval']``."""
    count: int
    """Number of images."""
    protocol: Protocol
    """How the score was computed."""
    detail: dict[str, Any] = {}
    """Further facts: how the interval was made, the chosen learning rate, which latents."""

    def marked(self, limit: int | None, *details: str) -> Score:
        """The same score with a trial's limit and further details in its protocol."""
        update = {"limit": limit, "details": (*self.protocol.details, *details)}
        return self.model_copy(update={"protocol": self.protocol.model_copy(update=update)})


class Manifest(Part):
    """``manifest.json``: written last, so its existence means that the artifact is finished."""

    format: int = STORE_FORMAT
    """Version of the store's layout."""
    stage: str
    """Name of the stage that made the artifact."""
    version: int
    """Version of that stage."""
    key: str
    """Key of the artifact: sha256 of stage, version, slice and inputs."""
    slice: dict[str, Any]
    """The part of the configuration that the stage could read."""
    inputs: dict[str, str]
    """Name of the input -> key of its artifact."""
    files: dict[str, str]
    """Relative path -> sha256."""
    sizes: dict[str, int]
    """Relative path -> bytes."""
    seconds: float
    """Wall time of the stage."""
    cost: dict[str, Any] = {}
    """What the stage reported: images per second, peak memory, FLOPs, utilisation."""
    host: dict[str, Any] = {}
    """Machine, device, threads, library versions."""
    finished: str
    """UTC time; only informative, nothing is ordered by it."""

    def written(self) -> bytes:
        """The bytes of ``manifest.json``, with their own digest."""
        return seal(self.model_dump(mode="json"))

    @classmethod
    def read(cls, raw: bytes, made_of: tuple[int, dict[str, Any], dict[str, str]] | None = None) -> Manifest:
        """Parses the bytes of ``manifest.json``. Raises ValueError if they are damaged or changed, or do not match their key; NewerRecord
        if a newer svgbench wrote them. ``made_of``: version, slice and inputs from which a plan computed the key, if there is a plan."""
        manifest = cls.model_validate(unseal(raw, STORE_FORMAT))
        recorded = (manifest.version, manifest.slice, manifest.inputs)
        if recorded != made_of and manifest.key != key_of(manifest.stage, *recorded):
            raise ValueError("its key does not match its content")
        return manifest


def key_of(stage: str, version: int, slice_: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """The key of a stage's execution, from everything on which its numbers depend. ``slice_`` has digests instead of paths."""
    return digest({"stage": stage, "version": version, "slice": slice_, "inputs": inputs})
